"""The table of all runs, read from their folders: how each stands, and where they differ. Imports no torch."""

import csv
import io
import json
import operator
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.utils import disp_len

from config import Config
from runs import history
from runs.history import History
from runs.record import to_json
from utils.errors import UsageError, nearest
from utils.text import counted, printable

# the options that tell experiments apart
TOLD = [n for n in Config.fields() if "train" in Config.commands_of(n) and n not in ("checkpoint_dir", "resume", "env")]
COLUMNS = ("name", "status", "epoch", "best", "last", "seconds", "started")
TERM = re.compile(r"([\w-]+)(<=|>=|!=|==|=|<|>)(.*)")


@dataclass
class Row:
    """One run, or several that differ in the seed alone.

    Attributes:
        status: "running", "finished", "stopped" (by its user), "failed" (it said why) or "died".
        metrics: what was measured in the best epoch; `last`: the monitored metric after the last one.
        seeds: of a group, the rows of its runs.
    """

    name: str
    status: str
    epoch: int
    max_epoch: int
    monitor: str
    metrics: dict[str, float]
    last: float | None
    seconds: float
    started: float
    options: dict[str, Any]
    seeds: list["Row"] = field(default_factory=list)

    @property
    def best(self) -> float | None:
        return self.metrics.get(f"val_{self.monitor}")

    def option(self, name: str) -> Any:
        """The option, or its default where the run is older than it."""
        return self.options.get(name, Config.default_of(name))

    def value(self, name: str) -> Any:
        """What `--where` and `--sort` mean by a name: a column, a metric, an option; None where the run has none."""
        columns = {"name": self.name, "status": self.status, "epoch": self.epoch, "seconds": self.seconds}
        columns |= {"best": self.best, "last": self.last, "started": self.started}
        option = name.replace("-", "_")
        known = self.option(option) if option in Config.fields() else None
        return columns.get(name, self.metrics.get(name, known))


def read_all(folder: str | Path) -> list[Row]:
    """The runs in a folder, the newest first; what is damaged, half copied or being written is read as far as it is."""
    return [row_of(run) for run in history.read_all(folder)]


def row_of(run: History) -> Row:
    return Row(
        name=run.name,
        status=run.status,
        epoch=run.done,
        max_epoch=run.max_epoch,
        monitor=run.monitor,
        metrics=history.numbers(run.best or {}),
        last=float(run.scored[-1][f"val_{run.monitor}"]) if run.scored else None,
        seconds=sum(history.numbers(epoch).get("seconds", 0) for epoch in run.epochs),
        started=run.started,
        options=run.options,
    )


def grouped(rows: list[Row]) -> list[Row]:
    """Finished runs that differ in the seed alone as one row: the mean of what they reached, and their spread."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        same = {name: _text(row.option(name)) for name in TOLD if name != "seed"}
        key = json.dumps(same, sort_keys=True, default=str) if row.status == "finished" else f"alone {id(row)}"
        groups.setdefault(key, []).append(row)
    found = []
    for some in groups.values():
        found += [_mean(some)] if len({row.options.get("seed") for row in some}) > 1 else some
    return sorted(found, key=lambda row: row.started, reverse=True)


def _mean(rows: list[Row]) -> Row:
    """One row for runs of several seeds; of a seed that ran twice the newest counts."""
    by_seed = {row.options.get("seed"): row for row in reversed(rows)}
    seeds, first = list(by_seed.values()), rows[0]
    names = set.intersection(*(set(row.metrics) for row in seeds))
    metrics = {name: statistics.fmean(row.metrics[name] for row in seeds) for name in names}
    last = [row.last for row in seeds if row.last is not None]
    return Row(
        name=f"{first.name} and {counted(len(seeds) - 1, 'more seed')}",
        status=first.status,
        epoch=first.epoch,
        max_epoch=first.max_epoch,
        monitor=first.monitor,
        metrics=metrics,
        last=statistics.fmean(last) if last else None,
        seconds=sum(row.seconds for row in seeds),
        started=first.started,
        options=first.options,
        seeds=seeds,
    )


def chosen(rows: list[Row], where: str, sort: str) -> list[Row]:
    """The rows for which all terms of `where` hold, sorted by a column; "-column": the largest first.

    Raises:
        UsageError: a term that is none, or a name that no run has.
    """
    names = sorted({*(name for row in rows for name in (*row.options, *row.metrics)), *COLUMNS})
    for term in where.split():
        match = TERM.fullmatch(term)
        if not match:
            raise UsageError(f"--where: {term!r} is no condition: type NAME=VALUE, NAME<VALUE, NAME!=VALUE, ...")
        name, sign, text = match.groups()
        _check_name("--where", name, names, rows)
        rows = [row for row in rows if _holds(row.value(name), sign, text)]
    column = sort.removeprefix("-")
    if column:
        _check_name("--sort", column, names, rows)
        known = [row for row in rows if isinstance(row.value(column), (int, float, str))]
        key = lambda row: (isinstance(row.value(column), str), row.value(column))  # noqa: E731
        rest = [row for row in rows if row not in known]
        rows = sorted(known, key=key, reverse=sort.startswith("-")) + rest
    return rows


def _check_name(flag: str, name: str, names: list[str], rows: list[Row]) -> None:
    if rows and name.replace("-", "_") not in names:
        raise UsageError(f"{flag}: no run has {name!r}: it is no column, metric or option.{nearest(name, names)}")


def _holds(value: Any, sign: str, text: str) -> bool:
    try:
        pair = float(value), float(text)
    except (TypeError, ValueError):
        pair = str(value).lower(), text.lower()  # type: ignore[assignment]
        if sign not in ("=", "==", "!="):
            return False
    compare = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
    return bool(getattr(operator, compare[sign])(*pair))


def differing(rows: list[Row]) -> list[str]:
    """The options in which the rows differ."""
    names = [name for name in TOLD if len({_text(row.option(name)) for row in rows}) > 1]
    return [name for name in names if name != "seed" or not any(row.seeds for row in rows)]


def records(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as plain values, for CSV and JSON."""
    options = differing(rows)
    return [
        {
            "name": row.name,
            "status": row.status,
            "epoch": row.epoch,
            "max_epoch": row.max_epoch,
            "monitor": row.monitor,
            "best": row.best,
            "deviation": _deviation(row),
            "runs": max(len(row.seeds), 1),
            "last": row.last,
            "seconds": round(row.seconds, 1),
            **{name: row.option(name) for name in options},
        }
        for row in rows
    ]


def as_json(rows: list[Row]) -> str:
    return to_json(records(rows), indent=1)


def as_csv(rows: list[Row]) -> str:
    text, plain = io.StringIO(newline=""), records(rows)
    writer = csv.DictWriter(text, list(plain[0]) if plain else ["name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue().rstrip("\n")


def as_text(rows: list[Row]) -> str:
    """The table for a terminal."""
    if not rows:
        return "no runs"
    options = differing(rows)
    head = ["run", "status", "epoch", "best", "last", "time", *options]
    cells = [[*_cells(row), *(_text(row.option(name)) for name in options)] for row in rows]
    widths = [max(disp_len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    lines = ["  ".join(cell + " " * (width - disp_len(cell)) for cell, width in zip(line, widths, strict=True))
             for line in [head, *cells]]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: Row) -> list[str]:
    spread = _deviation(row)
    best = "" if row.best is None else f"{row.monitor} {row.best:.4g}"
    if spread is not None:
        best += f" ± {spread:.2g} (n {len(row.seeds)})"
    last = "" if row.last is None else f"{row.last:.4g}"
    minutes, seconds = divmod(round(row.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}"
    return [printable(row.name), row.status, f"{row.epoch}/{row.max_epoch}", best, last, clock]


def _deviation(row: Row) -> float | None:
    """The standard deviation of the best value over the seeds."""
    values = [one.best for one in row.seeds if one.best is not None]
    return statistics.stdev(values) if len(values) > 1 else None


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return printable(" ".join(map(str, value)) if isinstance(value, list) else str(value))
