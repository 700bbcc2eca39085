"""The rows as text for a terminal, as CSV and as JSON. Imports no torch."""

import statistics
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from shutil import get_terminal_size
from typing import Any

from runs import record
from runs.noise import LEVEL, Difference
from runs.table import WITHOUT_EFFECT, Row, as_text, differing
from utils.text import clipped, csv_line, padded, printable, shortened, width_of

GAP = 2  # columns of the terminal between two of the table
NAME, OPTION = 14, 24  # columns of a terminal: the least for the name of a run, the most for an option
FIRST = 3  # options that come before `last` and `time` where there is no room for all
Differences = Mapping[Row, Difference]


@dataclass
class Column:
    head: str
    cells: list[str]

    @property
    def lines(self) -> list[str]:
        return [self.head, *self.cells]

    @cached_property
    def width(self) -> int:
        return max(map(width_of, self.lines))

    def shortened(self, width: int) -> "Column":
        return Column(self.head, [shortened(cell, width) for cell in self.cells])


def records(rows: list[Row], against: Differences) -> list[dict[str, Any]]:
    """The rows as plain values, for CSV and JSON.

    Args:
        against: the rows that are compared with another one, and how they differ from it.
    """
    options = differing(rows)
    found = []
    for row in rows:
        one = against.get(row)
        values = {"name": row.name, "status": row.status, "epoch": row.epoch, "max_epoch": row.max_epoch}
        values |= {"monitor": row.monitor, "best": row.best, "deviation": deviation(row, f"val_{row.monitor}")}
        values |= {"runs": len(row.runs), "last": row.last, "seconds": round(row.seconds, 1)}
        values |= {"against": one and one.other.name, "difference": one and one.value, "test": one and one.test}
        values |= {"p": one and one.p, "verdict": one and one.verdict}
        found.append(values | {name: row.option(name) for name in options})
    return found


def deviation(row: Row, metric: str) -> float | None:
    """The standard deviation over the seeds of a metric of the best epoch."""
    values = [run.metrics[metric] for run in row.seeds if metric in run.metrics]
    return statistics.stdev(values) if len(values) > 1 else None


def to_csv(plain: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for values in plain for name in values)) or ["name"]
    lines = [csv_line(names), *(csv_line(values.get(name) for name in names) for values in plain)]
    return "".join(lines).rstrip("\n")


def to_json(plain: list[dict[str, Any]]) -> str:
    return record.to_json(plain, indent=1)


def terminal_width() -> int | None:
    """The columns of the terminal that is written to; None where it is none: a file or another program."""
    return get_terminal_size().columns if sys.stdout.isatty() else None


def to_text(rows: list[Row], against: Differences, width: int | None) -> str:
    """The table for a terminal of `width` columns, in which no line wraps; None: whole."""
    if not rows:
        return "no runs"
    core, more = _columns(rows, against)
    notes = _notes(against)
    if width:
        core, more, left_out = _fitted(rows, core, more, width)
        notes += [f"left out: {', '.join(left_out)}: see them in a wider terminal, or by --csv or --json"] * bool(
            left_out
        )
    last = [name for name in ("last", "time") if name in more]
    columns = [*core, *(more[name] for name in last), *(more[name] for name in more if name not in last)]
    lines = aligned(columns)
    if width:
        lines = [clipped(line, width) for line in lines]
        notes = [clipped(line, width) for note in notes for line in textwrap.wrap(note, width)]
    return "\n".join([*lines, *notes])


def _columns(rows: list[Row], against: Differences) -> tuple[list[Column], dict[str, Column]]:
    """The columns that are always shown; and the others, the most telling first."""
    monitors = {row.monitor for row in rows}
    shared = next(iter(monitors)) if len(monitors) == 1 else ""
    best = [score(row, f"val_{row.monitor}") for row in rows]
    best = best if shared else [f"{row.monitor} {text}".strip() for row, text in zip(rows, best, strict=True)]
    core = [
        Column("run", [printable(row.name) for row in rows]),
        Column("status", [row.status for row in rows]),
        Column("epoch", [f"{row.epoch}/{row.max_epoch}" for row in rows]),
        Column(f"best {printable(shared)}".strip(), best),
    ]
    if against:
        references = {one.other for one in against.values()}
        marks = dict.fromkeys(references, "best") | {row: one.mark for row, one in against.items()}
        core.append(Column("vs best", [marks.get(row, "") for row in rows]))
    own = {
        "last": Column("last", ["" if row.last is None else f"{row.last:.4g}" for row in rows]),
        "time": Column("time", [clock(row.seconds) for row in rows]),
    }
    told = [name for name in differing(rows) if name != "max_epoch"]  # which is in `epoch`
    options = {name: Column(name, [as_text(row.option(name)) for row in rows]) for name in told}
    first = [name for name in told if name not in WITHOUT_EFFECT][:FIRST]
    return core, {name: (options | own)[name] for name in dict.fromkeys([*first, *own, *told])}


def _fitted(
    rows: list[Row], core: list[Column], more: dict[str, Column], width: int
) -> tuple[list[Column], dict[str, Column], list[str]]:
    """The columns that fit: shortened names, and of the other columns those that have room; and what has none."""
    names = Column("run", [printable(row.runs[0].name) for row in rows])  # "(n 3)" tells of the other seeds
    least = next((w for w in range(NAME, names.width) if _distinct(names.shortened(w), names)), names.width)
    room = width - least - sum(GAP + column.width for column in core[1:])
    kept, left_out = {}, []
    for name, column in more.items():
        column = column.shortened(OPTION)
        if GAP + column.width <= room:
            kept[name] = column
            room -= GAP + column.width
        else:
            left_out.append(name)
    whole = core[0].width <= least + room
    return [core[0] if whole else names.shortened(max(least + room, NAME)), *core[1:]], kept, left_out


def _distinct(short: Column, whole: Column) -> bool:
    return len(set(short.cells)) == len(set(whole.cells))


def _notes(against: Differences) -> list[str]:
    """What "vs best" means, in one line."""
    tests = " ".join(one.test for one in against.values())
    named = ["Student's t, paired by seed"] * ("Student" in tests) + ["Welch's t"] * ("Welch" in tests)
    said = [f"≈ best: no more than noise, worse: more (p < {LEVEL}; {', or '.join(named)})"] * bool(named)
    said += ["1 seed: cannot tell"] * any(one.p is None for one in against.values())
    return [f"vs best: {'; '.join(said)}"] if said else []


def aligned(columns: list[Column]) -> list[str]:
    """The lines of a table."""
    cells = [[padded(cell, column.width) for cell in column.lines] for column in columns]
    return [(" " * GAP).join(row).rstrip() for row in zip(*cells, strict=True)]


def score(row: Row, metric: str) -> str:
    """A metric of the best epoch; of several seeds with deviation and count."""
    if metric not in row.metrics:
        return ""
    spread = deviation(row, metric)
    more = "" if spread is None else f" ± {spread:.2g} (n {len(row.seeds)})"
    return f"{row.metrics[metric]:.4g}{more}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
