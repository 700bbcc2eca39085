"""The rows of the table of runs: how each stands, what it reached, which are seeds of one experiment. No torch."""

import json
import os
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import Config
from runs import history
from runs.history import History
from utils.text import counted, printable

# the options that tell experiments apart
OTHER = ("checkpoint_dir", "resume", "env", "watch", "dry_run", "profile")
TOLD = [name for name in Config.fields() if "train" in Config.commands_of(name) and name not in OTHER]
# those that leave what is learned as it is, but for rounding: runs that differ in these alone are one experiment
WITHOUT_EFFECT = {"num_workers", "data_timeout", "threads", "channels_last", "metrics"}
WITHOUT_EFFECT |= {name for name in TOLD if Config.group_of(name) == "output"}
PATHS = ("train_data_root", "load_path", "judge")  # of those that tell


@dataclass(eq=False)
class Row:
    """One run, or several that differ in the seed alone.

    Attributes:
        status: "running", "finished", "stopped" (by its user), "failed" (it said why) or "died".
        metrics: what was measured in the best epoch; `last`: the monitored metric after the last one.
        images: how many are trained on, and validated on.
        seeds: of a group, the rows of its runs, the newest first.
        epochs: the entries of the record, where they were asked for.
    """

    name: str
    status: str
    epoch: int
    max_epoch: int
    monitor: str
    falls: bool
    metrics: dict[str, float]
    last: float | None
    seconds: float
    started: float
    options: dict[str, Any]
    images: tuple[Any, Any]
    folder: Path
    best_epoch: int | None = None
    seeds: list["Row"] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> float | None:
        return self.metrics.get(f"val_{self.monitor}")

    @property
    def runs(self) -> list["Row"]:
        """The row of each run."""
        return self.seeds or [self]

    @property
    def seed(self) -> str:
        return as_text(self.option("seed"))

    def option(self, name: str) -> Any:
        """The option, or its default where the run is older than it; of a group that differs in it, all as a text."""
        if not self.seeds or name == "seed":
            return self.options.get(name, Config.default_of(name))
        values = {as_text(run.option(name)): run.option(name) for run in self.seeds}
        return ", ".join(values) if len(values) > 1 else next(iter(values.values()))

    def value(self, name: str) -> Any:
        """What `--where` and `--sort` mean by a name: a column, a metric, an option; None where the run has none."""
        columns = {"name": self.name, "status": self.status, "epoch": self.epoch, "seconds": self.seconds}
        columns |= {"best": self.best, "last": self.last, "started": self.started}
        option = name.replace("-", "_")
        if name not in columns and option in Config.fields():  # an epoch has an lr too, that of its end
            return self.option(option)
        return columns.get(name, self.metrics.get(name))


def read_all(folder: str | Path) -> list[Row]:
    """The runs in a folder, the newest first; what is damaged, half copied or being written is read as far as it is."""
    return sorted(map(row_of, history.each(folder)), key=lambda row: row.started, reverse=True)


def row_of(run: History, epochs: bool = False) -> Row:
    """The row of a run; `epochs`: with its epochs, for curves."""
    best = run.best or {}
    return Row(
        name=run.name,
        status=run.status,
        epoch=run.done,
        max_epoch=run.max_epoch,
        monitor=run.monitor,
        falls=run.falls,
        metrics=history.numbers(best),
        last=float(run.scored[-1][f"val_{run.monitor}"]) if run.scored else None,
        seconds=run.seconds,
        started=run.started,
        options=run.options,
        images=run.images,
        folder=run.folder,
        best_epoch=best.get("epoch"),
        epochs=run.epochs if epochs else [],
    )


def grouped(rows: list[Row]) -> list[Row]:
    """Finished runs that differ in the seed alone as one row, where the first of them stands: mean and spread."""
    groups: dict[str, list[Row]] = {}
    names = [name for name in varying(rows) if name != "seed" and name not in WITHOUT_EFFECT]
    for row in rows:
        key = experiment(row, names) if row.status == "finished" else f"alone {id(row)}"
        groups.setdefault(key, []).append(row)
    found = []
    for some in groups.values():
        found += [_mean(some)] if len({row.seed for row in some}) > 1 else some
    places = {row: place for place, row in enumerate(rows)}
    return sorted(found, key=lambda row: places[row.runs[0]])


def experiment(row: Row, names: list[str]) -> str:
    """What the seeds of one experiment have in common: the options `names`, and how many images there are."""
    same = {name: as_text(row.option(name)) for name in names}
    same |= {name: os.path.normpath(same[name]) for name in PATHS if name in same}
    return json.dumps([same, row.images], sort_keys=True, default=str)


def _mean(rows: list[Row]) -> Row:
    """One row for runs of several seeds; of a seed that ran twice, or was copied, the newest counts."""
    newest = {row.seed: row for row in sorted(rows, key=lambda row: row.started)}
    seeds = [row for row in rows if newest[row.seed] is row]
    first = seeds[0]
    names = set.intersection(*(set(row.metrics) for row in seeds))
    metrics = {name: statistics.fmean(row.metrics[name] for row in seeds) for name in first.metrics if name in names}
    last = [row.last for row in seeds if row.last is not None]
    return Row(
        name=f"{first.name} and {counted(len(seeds) - 1, 'more seed')}",
        status=first.status,
        epoch=first.epoch,
        max_epoch=first.max_epoch,
        monitor=first.monitor,
        falls=first.falls,
        metrics=metrics,
        last=statistics.fmean(last) if last else None,
        seconds=sum(row.seconds for row in seeds),
        started=max(row.started for row in seeds),
        options=first.options,
        images=first.images,
        folder=first.folder,
        seeds=seeds,
    )


def varying(rows: list[Row]) -> list[str]:
    """The options in which the runs of the rows differ."""
    runs = [run.options for row in rows for run in row.runs]
    found = []
    for name in TOLD if runs else ():
        default = Config.default_of(name)
        values = [options.get(name, default) for options in runs]
        if values.count(values[0]) < len(values):
            found.append(name)
    return found


def differing(rows: list[Row]) -> list[str]:
    """The options in which the rows differ, the most telling first.

    First those that change the result; among them those in which the rows differ most.
    """
    shares = {}
    for name in varying(rows):
        count = Counter(as_text(row.option(name)) for row in rows)
        if len(count) > 1 and not (name == "seed" and any(row.seeds for row in rows)):
            shares[name] = max(count.values())
    return sorted(shares, key=lambda name: (name in WITHOUT_EFFECT, shares[name]))


def as_text(value: Any) -> str:
    """An option's value as the table shows it."""
    if isinstance(value, float):
        return f"{value:.12g}"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if text.isprintable() else printable(text)
