"""Of a sweep: what mattered, all trials as lines through their values, and a table of them."""

import math
import shlex
from collections import Counter
from collections.abc import Callable
from typing import Any

from report import words
from report.html import Markup, details, join, paragraph, table, tag
from report.plot import HEIGHT, WIDTH
from report.subject import Subject
from sweeps import space as spaces
from sweeps.folder import Sweep, Trial
from sweeps.results import best_of
from utils.errors import UsageError
from utils.text import without_home

TITLE = "Sweep"
MARGIN = 100  # units beside the outer axes


def build(subject: Subject) -> Markup | None:
    folders = {run.folder.parent for run in subject.histories}
    if len(folders) > 1 or not ((folder := folders.pop()) / "sweep.yaml").is_file():
        return None
    try:
        sweep = Sweep.open(folder)
    except UsageError as e:
        return paragraph(str(e), "note")
    first, trials = subject.histories[0], sweep.trials()
    space = spaces.split(sweep.plan.searched)[1]
    best = best_of(trials, first.falls)
    parts = [_what_mattered(space, trials, first.falls), _lines(space, trials, first.monitor, best), _counts(trials)]
    head = ["trial", "ended", words.named(first.monitor), "epoch", *space, "time", "why"]
    key: Callable[[Trial], Any] = lambda t: (t.value is None, (t.value or 0) * (1 if first.falls else -1))  # noqa: E731
    parts.append(table(head, [_row(trial, list(space), first.monitor) for trial in sorted(trials, key=key)]))
    if best:
        command = f"python main.py train --config={shlex.quote(without_home(f'{folder}/{best.name}.yaml'))}"
        shown = "\n".join(f"{name}: {value}" for name, value in best.options.items())
        parts.append(tag("pre", tag("code", command)))
        parts.append(details(f"The preset of {best.name}", tag("pre", without_home(shown))))
    return join(filter(None, parts))


def _what_mattered(space: spaces.Space, trials: list[Trial], falls: bool) -> Markup | None:
    try:
        from sweeps import study
    except UsageError:
        return paragraph("What mattered is told where the package optuna is installed.", "note")
    found = study.importance(space, trials, falls)
    if not found:
        return paragraph("What mattered can be told of two options or more, and four trials or more.", "note")
    rows = [[name, f"{part:.0%}", _bar(part)] for name, part in found.items()]
    told = "How much of the results' spread an option explains (PED-ANOVA, Watanabe et al. 2023)"
    return join([tag("h3", "What mattered"), table(["option", "part", ""], rows), paragraph(f"{told}.", "note")])


def _bar(part: float) -> Markup:
    style = f"display:inline-block;width:{12 * part:.2f}rem;height:.7rem;background:currentColor"
    return tag("i", class_="c0", style=style)


def _lines(space: spaces.Space, trials: list[Trial], monitor: str, best: Trial | None) -> Markup | None:
    """Parallel coordinates: an axis for each option, and one for the result; a line for each trial."""
    known = [trial for trial in trials if trial.value is not None]
    if len(known) < 2:
        return None
    values = [trial.value for trial in known if trial.value is not None]
    low, high = min(values), max(values)
    axes = [*space, words.named(monitor)]
    at = [MARGIN + (WIDTH - 2 * MARGIN) * i / (len(axes) - 1) for i in range(len(axes))]
    drawn = "".join(f'<path class="grid" d="M{round(x)} 0v{HEIGHT}"/>' for x in at)
    for trial in sorted(known, key=lambda t: t is best):
        heights = [_height(space[name], trial.point[name]) if name in trial.point else None for name in space]
        heights.append((trial.value - low) / (high - low) if high > low else 0.5)  # type: ignore[operator]
        points = [f"{round(x)} {round(HEIGHT * (1 - y))}" for x, y in zip(at, heights, strict=True) if y is not None]
        colour, style = ("c1", "") if trial is best else ("c0", "faint")
        drawn += f'<path class="line {colour} {style}" d="M{"L".join(points)}"/>'
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
    ends = [_ends(part) for part in space.values()]
    ends.append([(0.0, words.metric(monitor, low)), (1.0, words.metric(monitor, high))])
    labels = []
    for x, name, marks in zip(at, axes, ends, strict=True):
        left = f"left:{100 * x / WIDTH:.2f}%"
        labels.append(tag("span", name, class_="xt", style=left))
        labels += [tag("span", text, class_="point", style=f"{left};top:{100 * (1 - y):.0f}%") for y, text in marks]
    told = f"{len(known)} trials as lines through their values; the best in another colour"
    box = tag("div", join([Markup(svg), *labels], ""), class_="plot", role="img", aria_label=told)
    return join([tag("h3", "All trials"), tag("div", box, class_="chart"), tag("p", told + ".", class_="note below")])


def _height(part: spaces.Choice | spaces.Range, value: Any) -> float:
    """Where a value stands on its axis: 0 at the low end, 1 at the high one."""
    if isinstance(part, spaces.Choice):
        return part.texts.index(str(value)) / (len(part.texts) - 1) if str(value) in part.texts else 0.5
    low, high, number = part.low, part.high, float(value)
    if part.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return min(max((number - low) / (high - low), 0.0), 1.0)


def _ends(part: spaces.Choice | spaces.Range) -> list[tuple[float, str]]:
    if isinstance(part, spaces.Choice):
        return [(_height(part, value), words.option(value)) for value in part.values]
    return [(0.0, f"{part.low:g}"), (1.0, f"{part.high:g}")]


def _counts(trials: list[Trial]) -> Markup:
    counts = Counter(trial.ended or "not ended" for trial in trials)
    return paragraph(", ".join(f"{count} {state}" for state, count in counts.most_common()) + ".")


def _row(trial: Trial, names: list[str], monitor: str) -> list[Any]:
    value = words.metric(monitor, trial.value)
    if trial.spread is not None:
        value += f" ± {words.metric(monitor, trial.spread)}"
    point = [words.option(trial.point.get(name, "")) for name in names]
    return [
        trial.number,
        trial.ended or "not yet",
        value,
        trial.epoch or "",
        *point,
        words.duration(trial.seconds),
        trial.why,
    ]
