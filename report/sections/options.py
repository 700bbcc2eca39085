"""With which options the runs were made: what differs first."""

from config import Config
from report import words
from report.html import Markup, details, join, paragraph, table, tag
from report.subject import Subject
from runs.history import History
from runs.table import TOLD
from utils.options import dashed

TITLE = "Options"
MOST_RUNS = 12  # side by side


def build(subject: Subject) -> Markup:
    runs = [group.runs[0] for group in subject.groups]
    changed = [name for name in TOLD if any(_is_changed(run, name) for run in runs)]
    differing = [name for name in changed if len({words.option(run.option(name)) for run in runs}) > 1]
    seeds = [] if len(runs) == len(subject.histories) else ["seed"]
    parts = []
    if len(runs) > 1:
        parts.append(_side_by_side(subject, [name for name in differing if name not in seeds]))
    common = [name for name in changed if name not in (*differing, *seeds)]
    rows = [_row(runs[0], name) for name in common]
    if rows:
        what = "The same in all runs, and not the default:" if len(runs) > 1 else "Not the default:"
        parts += [paragraph(what), table(["option", "value", "default", "meaning"], rows)]
    elif len(runs) == 1:
        parts.append(paragraph("All options have their defaults."))
    every = [_row(runs[0], name) for name in TOLD]
    whose = f"All options of {runs[0].name}" if len(runs) > 1 else f"All {len(every)} options"
    return join([*parts, details(whose, table(["option", "value", "default", "meaning"], every))])


def _is_changed(run: History, name: str) -> bool:
    return words.option(run.option(name)) != words.option(Config.default_of(name))


def _row(run: History, name: str) -> list[object]:
    value, default = words.option(run.option(name)), words.option(Config.default_of(name))
    shown = tag("strong", value) if value != default else value
    return [tag("code", dashed(name), class_="name"), shown, default, tag("small", Config.help_of(name))]


def _side_by_side(subject: Subject, names: list[str]) -> Markup:
    """The options in which the groups differ, a column for each group."""
    groups = subject.groups[:MOST_RUNS]
    if not names:
        return paragraph("The runs have the same options.")
    rows = [[tag("code", dashed(n), class_="name"), *(_cell(group.runs[0], n) for group in groups)] for n in names]
    seeds = [", ".join(words.option(run.option("seed")) for run in group.runs) for group in groups]
    rows += [["seeds", *seeds]] if any(len(group.runs) > 1 for group in groups) else []
    left = len(subject.groups) - len(groups)
    note = [paragraph(f"{left} more runs are left out.", "note")] if left else []
    heads = [""] + [group.name for group in groups]
    return join([paragraph("What differs (bold: not the default):"), table(heads, rows), *note])


def _cell(run: History, name: str) -> object:
    value = words.option(run.option(name))
    return tag("strong", value) if _is_changed(run, name) else value
