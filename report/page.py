"""The page: its head, its sections in order, its foot. All that it needs lies within it."""

import importlib
import time
from pathlib import Path

from report.html import Markup, escape, join, paragraph, tag
from report.subject import Subject
from utils.text import counted, without_home

# files of report/sections/, in the order of the page
OF_IMAGES = ("mistakes", "heatmaps", "wrong_labels", "near_duplicates", "reliability", "roc")  # these need the net
SECTIONS = (
    "headline",
    "sweep",
    "curves",
    "watch",
    "options",
    "confusion",
    *OF_IMAGES,
    "pictures",
    "features",
    "repeat",
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # nothing is loaded
HERE = Path(__file__).parent


def build(subject: Subject) -> tuple[str, int]:
    """Returns the page as HTML, and how many sections it has."""
    sections = []
    for name in SECTIONS:
        if name in OF_IMAGES and subject.judged is None:
            continue  # without importing torch
        module = importlib.import_module(f"report.sections.{name}")
        if content := module.build(subject):
            sections.append((name, module.TITLE, content))
    runs = subject.histories
    title = runs[0].name if len(runs) == 1 else counted(len(runs), "run") + " compared"
    links = [tag("a", heading, href=f"#{name}") for name, heading, _ in sections]
    body = [tag("section", join([tag("h2", heading), content]), id=name) for name, heading, content in sections]
    notes = [f"Without what shows single images: {subject.why_not}"] if subject.why_not else []
    notes += subject.judged.notes if subject.judged else []
    made = f"Made {time.strftime('%Y-%m-%d %H:%M')} from the record of {counted(len(runs), 'run')}."
    content = [
        tag("header", join([tag("h1", title), _subtitle(subject), tag("nav", join(links), aria_label="Sections")])),
        tag("main", join([*body, *(paragraph(without_home(note), "note") for note in notes)])),
        tag("footer", paragraph(made)),
    ]
    return f"<!doctype html>\n{tag('html', join([head(title), tag('body', join(content))]), lang='en')}\n", len(body)


def _subtitle(subject: Subject) -> Markup:
    models = dict.fromkeys(f"{run.options.get('model')} on {run.options.get('dataset')}" for run in subject.histories)
    return paragraph(", ".join(list(models)[:3]) + (", ..." if len(models) > 3 else ""), "note")


def head(title: str) -> Markup:
    """The page's head: it loads nothing."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    wrapped = f'document.addEventListener("DOMContentLoaded", () => {{\n{script}}});'
    return join(
        [
            Markup("<head>"),
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            tag("style", Markup(style)),
            tag("script", Markup(wrapped)),
            Markup("</head>"),
        ]
    )
