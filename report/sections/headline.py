"""The numbers that one looks for first."""

import statistics
from typing import Any

from report import words
from report.html import Markup, details, join, paragraph, table, tag
from report.subject import Group, Subject
from runs.history import History, numbers

TITLE = "Result"
MEANINGS = {
    "running": "it trains now",
    "finished": "all epochs are done",
    "stopped": "its user stopped it",
    "failed": "it ended with an error, which its log.txt tells",
    "died": "its process is gone",
}


def build(subject: Subject) -> Markup:
    if len(subject.histories) == 1:
        return join([_tiles(subject.histories[0]), _metrics(subject.histories[0])])
    rows = [_row(group) for group in subject.groups]
    monitors = dict.fromkeys(words.named(run.monitor) for run in subject.histories)
    head = ["runs", "status", "epochs", f"best {' / '.join(monitors)}", "its epoch", "last", "time", "images/s"]
    parts = [table(head, rows)]
    if len(subject.groups) < len(subject.histories):
        parts.append(paragraph("Runs that differ in the seed alone are one line: mean ± standard deviation.", "note"))
        single = [_row(Group(run.name, [run])) for run in subject.histories]
        parts.append(details("Each run", table(head, single)))
    return join([*parts, tag("h3", f"The best run: {subject.best.name}"), _tiles(subject.best)])


def badge(run: History) -> Markup:
    return tag("span", run.status, class_=f"badge {run.status}", title=MEANINGS[run.status])


def _tiles(run: History) -> Markup:
    best, monitor = run.best, run.monitor
    last = run.scored[-1] if run.scored else None
    train, val = run.images
    tiles: list[tuple[str, str, str]] = []
    if best and last:
        what, name = words.named(monitor), f"val_{monitor}"
        tiles.append((f"best {what}", words.metric(monitor, best[name]), f"epoch {best['epoch']}, validation"))
        tiles.append((f"last {what}", words.metric(monitor, last[name]), f"epoch {last['epoch']}, validation"))
    tiles += [
        ("epochs", f"{run.done} of {run.max_epoch}", badge(run)),
        ("training time", words.duration(run.seconds), _rate(run)),
        ("model", words.option(run.options.get("model")), words.option(run.options.get("optimizer"))),
        ("data set", words.option(run.options.get("dataset")), _counts(train, val)),
    ]
    boxes = [tag("div", join([tag("dt", a), tag("dd", join([b, tag("small", c)]) if c else b)])) for a, b, c in tiles]
    return tag("dl", join(boxes), class_="tiles")


def _counts(train: Any, val: Any) -> str:
    return f"{train} training, {val} validation images" if train is not None else ""


def _rate(run: History) -> str:
    rates = [rate for epoch in run.epochs if (rate := numbers(epoch).get("rate"))]
    return f"{statistics.median(rates):.4g} images/s" if rates else ""


def _metrics(run: History) -> Markup:
    """All metrics of the best and of the last epoch."""
    if not run.epochs:
        return paragraph("The record holds no whole epoch yet.", "note")
    best, last = run.best or run.epochs[-1], run.epochs[-1]
    both = [("best", best), ("last", last)] if best is not last else [("last", last)]
    names = dict.fromkeys(n.partition("_")[2] for n in (*numbers(best), *numbers(last)) if n[:4] in ("val_", "trai"))
    parts = [part for part in ("train", "val") if any(f"{part}_{n}" in e for n in names for _, e in both)]
    full = {"train": "training", "val": "validation"}
    head = ["metric", *(f"{full[part]}, {word} epoch ({e['epoch']})" for word, e in both for part in parts)]
    rows = [
        [words.named(n), *(words.metric(n, e.get(f"{part}_{n}")) for _, e in both for part in parts)] for n in names
    ]
    return table(head, [row for row in rows if any(row[1:])])


def _row(group: Group) -> list[Any]:
    runs, first = group.runs, group.runs[0]
    scored = [run for run in runs if run.best]
    best = [run.best[f"val_{run.monitor}"] for run in scored if run.best]
    last = [run.scored[-1][f"val_{run.monitor}"] for run in scored]
    epochs = sorted({run.best["epoch"] for run in scored if run.best})
    statuses = list({run.status: badge(run) for run in runs}.values())
    return [
        group.name,
        join(statuses, " "),
        ", ".join(dict.fromkeys(f"{run.done}/{run.max_epoch}" for run in runs)),
        _mean(first.monitor, best),
        ", ".join(map(str, epochs)),
        _mean(first.monitor, last),
        tag("span", words.duration(sum(run.seconds for run in runs)), class_="name"),
        _rate(first).removesuffix(" images/s"),
    ]


def _mean(name: str, values: list[float]) -> str:
    """The mean, and of several values their standard deviation and number."""
    if len(values) < 2:
        return words.metric(name, values[0]) if values else ""
    spread = words.metric(name, statistics.stdev(values))
    return f"{words.metric(name, statistics.fmean(values))} ± {spread} (n {len(values)})"
