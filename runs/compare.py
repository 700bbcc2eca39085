"""Some runs side by side, as `runs A B` shows them, and whether they differ. Imports no torch."""

import shlex
import string
import textwrap
from pathlib import Path
from typing import Any

from config import Config
from runs import history, layout
from runs.layout import GAP, Column, Differences, aligned, clock, score
from runs.noise import Difference
from runs.table import WITHOUT_EFFECT, Row, as_text, differing, row_of
from utils import files
from utils.errors import UsageError
from utils.options import dashed
from utils.text import clipped, printable, shortened

NARROW = 19  # columns of a terminal that a run takes at least: "0.6833 ± 0.14 (n 3)"
LABEL = 60  # columns of a run's line in a legend, at most


def check_options(opt: Config, words: tuple[Any, ...]) -> None:
    """Refuses, before any work, what has no effect or cannot be written.

    Raises:
        UsageError: an option for comparing where no runs are named, two formats, or a file that cannot be written.
    """
    if opt.csv and opt.json:
        raise UsageError("--csv and --json are two formats: give one of them")
    for name in ("curves_file", "env", "vis_port", "vis_server"):
        if opt.typed(name) and not words:
            raise UsageError(f"--{dashed(name)} has no effect on the table: name runs to compare, as `runs A B`")
    if words and opt.curves_file:
        files.check_writable(opt.curves_file, "--curves-file")


def read(words: tuple[Any, ...], folder: str | Path) -> list[Row]:
    """The runs that `words` mean, in their order, with their epochs.

    Raises:
        UsageError: one is no run.
    """
    return [row_of(run, epochs=True) for run in history.find(words, folder)]


def letters(rows: list[Row]) -> dict[Row, str]:
    """What the rows are called where there is little room: A, B, ..., Z, AA, BB, ..."""
    alphabet = string.ascii_uppercase
    return {row: alphabet[i % 26] * (i // 26 + 1) for i, row in enumerate(rows)}


def labels(rows: list[Row]) -> dict[Row, str]:
    """The rows in a legend: `A: resnet18_Demo_1126_013723, lr 0.002`."""
    options = [name for name in differing(rows) if name not in WITHOUT_EFFECT][:2]
    found = {}
    for row, letter in letters(rows).items():
        words = [f"{name} {as_text(row.option(name))}" for name in options] + [f"n {len(row.seeds)}"] * bool(row.seeds)
        found[row] = shortened(", ".join([f"{letter}: {printable(row.runs[0].name)}", *words]), LABEL)
    return found


def metrics_of(rows: list[Row]) -> list[str]:
    """The metrics of the best epochs: all of the validation, the monitored ones first, and the training's losses."""
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    monitored = dict.fromkeys(f"val_{row.monitor}" for row in rows)
    others = [n for n in names if n.startswith("val_") or (n.startswith("train_") and n.endswith("loss"))]
    return [n for n in dict.fromkeys([*monitored, *others]) if n in names]


def records(rows: list[Row], against: Differences) -> list[dict[str, Any]]:
    """The rows as plain values, as in the table, and all metrics of the best epoch."""
    names = metrics_of(rows)
    return [
        values | {"best_epoch": row.best_epoch} | {name: row.metrics.get(name) for name in names}
        for row, values in zip(rows, layout.records(rows, against), strict=True)
    ]


def to_text(rows: list[Row], against: Differences, width: int | None) -> str:
    """The runs as columns, and a line for each difference from the first; no line wraps in `width` columns."""
    if not rows:
        return "no runs"
    names, *columns = _columns(rows)
    lines: list[str] = []
    if width:
        room = max(width - names.width, NARROW + GAP)
        at_once = min(len(rows), max(room // (NARROW + GAP), 1))
        columns = [column.shortened(max(room // at_once - GAP, NARROW)) for column in columns]
        for start in range(0, len(columns), at_once):
            lines += ["", *aligned([names, *columns[start : start + at_once]])]
        lines = [clipped(line, width) for line in lines[1:]]
    else:
        lines = aligned([names, *columns])
    said = verdicts(rows, against)
    if width:
        said = [part for line in said for part in textwrap.wrap(line, width, subsequent_indent="  ")]
    return "\n".join([*lines, *([""] if said else []), *said])


def _columns(rows: list[Row]) -> list[Column]:
    """The names of what is told, and a column for each row."""
    options, metrics = differing(rows), metrics_of(rows)
    options += ["seed"] * (any(row.seeds for row in rows) and "seed" not in options)
    named = ["run", "status", "epochs", *options, "best epoch", *metrics, "last", "time"]
    columns = []
    for row, letter in letters(rows).items():
        best = ", ".join(str(run.best_epoch) for run in row.runs if run.best_epoch is not None)
        last = "" if row.last is None else f"{printable(row.monitor)} {row.last:.4g}"
        cells = [printable(row.runs[0].name), row.status, f"{row.epoch}/{row.max_epoch}"]
        cells += [", ".join(r.seed for r in row.runs) if n == "seed" else as_text(row.option(n)) for n in options]
        columns.append(
            Column(letter, [*cells, best, *(score(row, name) for name in metrics), last, clock(row.seconds)])
        )
    return [Column("", list(map(printable, named))), *columns]


def verdicts(rows: list[Row], against: Differences) -> list[str]:
    """A line for each difference from the first row; and how to run more seeds where one cannot tell."""
    letter, first = letters(rows), rows[0]
    lines = [_verdict(row, against.get(row), f"{letter[row]} - {letter[first]}", first) for row in rows[1:]]
    single = next((row for row in rows if not row.seeds), None)
    if single and any(one.p is None and not _copied(row, first) for row, one in against.items()):
        folder = shlex.quote(printable(single.folder / "config.yaml"))
        seed = int(single.seed) + 1 if single.seed.isdecimal() else 1
        lines.append(f"another seed: python main.py train --config={folder} --seed={seed}")
    return lines


def _verdict(row: Row, one: Difference | None, name: str, first: Row) -> str:
    if one is None:
        measured = row.monitor == first.monitor
        return (
            f"{name}: not measured in both" if measured else f"{name}: {row.monitor} and {first.monitor}: no difference"
        )
    said = f"{name}: {printable(row.monitor)} {one.value:+.4g}"
    if one.p is not None:
        return f"{said}, {one.test}, p {one.p:.2g}: {one.verdict}"
    if _copied(row, first):
        return f"{said}: they are one run, copied"
    each = "" if row.seeds or first.seeds else " each"
    return f"{said}: one seed{each} cannot tell"


def _copied(row: Row, first: Row) -> bool:
    """Whether two folders hold one run: no two start in the same millisecond with the same options."""
    return bool(row.started) and (row.started, row.options) == (first.started, first.options)
