"""Curves of training and validation, of steps, the learning rate and the speed."""

import math
import statistics
from collections.abc import Callable
from typing import Any

from report import charts, words
from report.charts import Line
from report.html import Markup, figure, join, paragraph, tag
from report.subject import Group, Subject
from runs.history import is_number, numbers

TITLE = "Curves"
PARTS = {"val": "validation", "train": "training"}
NOT_METRICS = ("epoch", "step", "time", "lr", "rate", "seconds", "bad_images")
MOST_GROUPS = 8  # on a chart: as many as there are colours
BOTH = 4  # groups of which the training lines are drawn as well
SMOOTH = 50  # of so many parts the means of noisy steps are drawn
WIDE_RANGE = 1000  # largest by smallest value, from which on a loss has a logarithmic axis


def build(subject: Subject) -> Markup:
    groups = subject.groups[:MOST_GROUPS]
    epochs = [numbers(epoch) for run in subject.histories for epoch in run.epochs]
    names = dict.fromkeys(n.partition("_")[2] for e in epochs for n in e if n.startswith(("train_", "val_")))
    monitor = subject.best.monitor
    ordered = sorted(names, key=lambda n: (n != "loss", n != monitor))
    shown = [_epochs(name, groups, subject) for name in ordered]
    if any("rate" in epoch for epoch in epochs):
        shown.append(_plain("rate", "images a second", groups))
    steps = dict.fromkeys(n for g in groups for run in g.runs for s in run.steps[:50] for n in numbers(s))
    shown += [_steps(name, groups) for name in steps if name not in NOT_METRICS]
    if "lr" in steps:
        shown.append(_learning_rate(groups))
    parts = [tag("div", join(figure(chart) for chart in shown if chart), class_="pair")] if any(shown) else []
    if parts:
        parts.insert(0, paragraph(_note(subject), "note"))
    return join(parts)


def _note(subject: Subject) -> str:
    text = "The values of all lines show at the pointer."
    if len(subject.groups) > 1:
        text += " Solid: validation; dashed: training." if len(subject.groups) <= BOTH else " Validation."
    if any(len(group.runs) > 1 for group in subject.groups):
        text += " Several seeds: their mean, in a band from the lowest to the highest."
    left = len(subject.groups) - MOST_GROUPS
    return text + (f" {left} more runs are left out." if left > 0 else "")


def _epochs(name: str, groups: list[Group], subject: Subject) -> Markup:
    """One metric, after each epoch, in training and in validation."""
    drawn, label, events = (
        [],
        words.named(name),
        [epoch for group in groups for run in group.runs for epoch in run.epochs],
    )
    parts = [part for part in ("val", "train") if any(is_number(event.get(f"{part}_{name}")) for event in events)]
    if parts == ["train"]:
        label += " in training"
    elif len(groups) > BOTH:
        parts = ["val"]
    for number, group in enumerate(groups):
        for place, part in enumerate(parts):
            line = _line(group, lambda run: run.epochs, "epoch", f"{part}_{name}")
            line.dashed, line.colour = place > 0, number if len(groups) > 1 else place
            line.name = PARTS[part] if len(groups) == 1 else group.name + " (training)" * (place > 0)
            drawn.append(line)
    best = subject.best.best if len(subject.histories) == 1 else None
    marks = [(best["epoch"], f"best: {best['epoch']}")] if best and len(subject.histories[0].epochs) > 1 else []
    return charts.lines(drawn, "epoch", label, log_y=_is_wide(name, drawn), marks=marks)


def _is_wide(name: str, drawn: list[Line]) -> bool:
    """Whether it is a loss that needs a logarithmic axis."""
    finite = [v for line in drawn for v in line.y if v is not None and math.isfinite(v)]
    return name.endswith("loss") and bool(finite) and min(finite) > 0 and max(finite) > WIDE_RANGE * min(finite)


def _plain(name: str, label: str, groups: list[Group]) -> Markup:
    drawn = [_line(group, lambda run: run.epochs, "epoch", name) for group in groups]
    for number, line in enumerate(drawn):
        line.colour = number
    return charts.lines(drawn, "epoch", label)


def _line(group: Group, events: Callable[[Any], list[dict[str, Any]]], at: str, name: str) -> Line:
    """A value over epochs or steps; of several runs the mean where all have one, within lowest and highest."""
    series = [{e[at]: float(e[name]) for e in events(run) if is_number(e.get(name))} for run in group.runs]
    common = sorted(set.intersection(*map(set, series)))
    if len(series) == 1:
        return Line(group.name, common, [series[0][x] for x in common])
    values = [[one[x] for one in series] for x in common]
    mean = [statistics.fmean(v) for v in values]
    return Line(group.name, common, mean, [min(v) for v in values], [max(v) for v in values])


def _steps(name: str, groups: list[Group]) -> Markup:
    """A metric of the training steps: of one run each step, faint, and the mean of parts; of several the means."""
    drawn = []
    for number, group in enumerate(groups):
        line = _line(group, lambda run: run.steps, "step", name)
        line.colour = number
        size = -(-len(line.x) // SMOOTH)
        if size < 3:
            drawn.append(line)
            continue
        smooth = _smooth(line, size)
        smooth.name = f"mean of {size} steps" if len(groups) == 1 else group.name
        if len(groups) == 1:
            line.colour, line.faint, line.name = charts.COLOURS - 1, True, "each step"
            drawn.append(line)
        drawn.append(smooth)
    return charts.lines(drawn, "step", f"{words.named(name)} of training steps", log_y=_is_wide(name, drawn))


def _smooth(line: Line, size: int) -> Line:
    """The means of parts of so many steps."""

    def means(values: Any) -> Any:
        return None if values is None else [statistics.fmean(values[i : i + size]) for i in range(0, len(values), size)]

    return Line(line.name, means(line.x), means(line.y), means(line.low), means(line.high), colour=line.colour)


def _learning_rate(groups: list[Group]) -> Markup:
    drawn = []
    for number, group in enumerate(groups):
        line = _line(Group(group.name, group.runs[:1]), lambda run: run.steps, "step", "lr")
        line.colour = number
        drawn.append(line)
    return charts.lines(drawn, "step", "learning rate")
