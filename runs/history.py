"""A run as its folder tells it: its options, its steps and epochs, and how it stands. Imports no torch."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from config import Config
from utils import checkpoints, files
from utils.errors import UsageError, nearest

FALLING = ("loss", "distance", "error")  # metrics of which less is better end so
OF_FOLDERS = ("metrics.jsonl", "sweep.yaml")  # of runs, and of sweeps
TAIL = 4096  # bytes of log.txt in which its last words are
BEGINNINGS = (b'\n{"kind": "start"', b'\n{"kind": "resume"', b'\n{"kind": "epoch"')


@dataclass
class History:
    """The record of a run, as far as it can be read: damaged and half-copied ones as well.

    Attributes:
        start: the newest entry "start" or "resume": what its checkpoints say of themselves (model, classes, images,
            machine, config, ...); `time` is that of the first.
        epochs: the entries "epoch" in order, one for each number. steps: the entries "step", where they were asked for.
        others: entries of other kinds, such as "watch", where steps were asked for.
    """

    folder: Path
    start: dict[str, Any]
    epochs: list[dict[str, Any]]
    steps: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def options(self) -> dict[str, Any]:
        return self.start["config"]

    def option(self, name: str) -> Any:
        """The option, or its default where the run is older than it."""
        return self.options.get(name, Config.default_of(name))

    @property
    def started(self) -> float:
        """Seconds since 1970."""
        time = self.start.get("time")
        return float(time) if is_number(time) else 0.0  # type: ignore[arg-type]

    @property
    def monitor(self) -> str:
        """The metric that the best epoch is chosen by."""
        wanted, own = self.options.get("monitor"), "distance" if self.start.get("task") == "Gan" else "accuracy"
        return wanted if wanted and isinstance(wanted, str) else own

    @property
    def falls(self) -> bool:
        """Whether less of the monitored metric is better."""
        return self.monitor.endswith(FALLING)

    @cached_property
    def scored(self) -> list[dict[str, Any]]:
        """The epochs in which the monitored metric was measured."""
        name = f"val_{self.monitor}"
        return [epoch for epoch in self.epochs if is_number(epoch.get(name))]

    @property
    def best(self) -> dict[str, Any] | None:
        """The best epoch: by the monitored metric, and among equals by the loss."""
        sign, name = -1 if self.falls else 1, f"val_{self.monitor}"
        return max(self.scored, key=lambda e: (sign * e[name], -number(e, "val_loss")), default=None)

    @property
    def images(self) -> tuple[Any, Any]:
        """How many are trained on, and how many validated on; None where the record does not say."""
        counts = self.start.get("images")
        return (counts.get("train"), counts.get("val")) if isinstance(counts, dict) else (None, None)

    @property
    def seconds(self) -> float:
        """Of all epochs."""
        return float(sum(number(epoch, "seconds") for epoch in self.epochs))

    @property
    def done(self) -> int:
        """Whole epochs."""
        return self.epochs[-1]["epoch"] if self.epochs else 0

    @property
    def max_epoch(self) -> int:
        wanted = self.options.get("max_epoch")
        return wanted if isinstance(wanted, int) else self.done

    @cached_property
    def status(self) -> str:
        """ "running", "finished", "stopped" (by its user), "failed" (it said why) or "died".

        From the lock that a training holds on its log, and its last words there: never from what it once meant to do.
        """
        done = self.done >= self.max_epoch
        with suppress(OSError), (self.folder / "log.txt").open("rb") as file:
            if files.is_locked(file):
                return "running"
            if done:
                return "finished"
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
            words = re.findall(rb"^(stopped by|ended at|resuming)", file.read(), re.MULTILINE)
            return {b"stopped by": "stopped", b"ended at": "failed"}.get(words[-1] if words else b"", "died")
        return "finished" if done else "died"


def read(folder: Path, steps: bool = False) -> History | None:
    """One run; None where its record does not say yet what it is.

    Args:
        steps: read all entries; else those of steps are passed over, which is much faster.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {"step": {}, "epoch": {}}
    start: dict[str, Any] = {}
    others: list[dict[str, Any]] = []
    with suppress(OSError):
        data = (folder / "metrics.jsonl").read_bytes()
        for line in data.split(b"\n") if steps else _without_steps(data):
            with suppress(ValueError, RecursionError):
                event = json.loads(line.decode())
                kind = event.get("kind") if isinstance(event, dict) else None
                if kind in ("start", "resume") and isinstance(event.get("config"), dict):
                    start = event | {"time": start.get("time", event.get("time"))}
                elif kind in ("step", "epoch") and type(event.get(kind)) is int:
                    found[kind][event[kind]] = event
                elif isinstance(kind, str):
                    others.append(event)
    if not start:
        return None
    epochs, all_steps = ([entries[n] for n in sorted(entries)] for entries in (found["epoch"], found["step"]))
    return History(folder, start, epochs, all_steps if steps else [], others if steps else [])


def _without_steps(data: bytes) -> Iterator[bytes]:
    """The lines of a record that begin as BEGINNINGS do; the others, most of it, are never looked at."""
    data = b"\n%s\n" % data
    for beginning in BEGINNINGS:
        start = data.find(beginning)
        while start >= 0:
            end = data.find(b"\n", start + 1)
            yield data[start:end]
            start = data.find(beginning, end)


def each(folder: str | Path) -> Iterator[History]:
    """The runs in a folder, in any order, one in memory at a time."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if not name.startswith(".") and (run := read(Path(folder, name))):
                yield run


def find(words: tuple[Any, ...], runs: str | Path) -> list[History]:
    """The runs that `words` mean, with their steps: paths, names of folders in `runs`, or `last`, the newest one; of a
    sweep the first run of each trial.

    Raises:
        UsageError: none is named, or one is no run; gives the nearest name.
    """
    histories: list[History] = []
    for word in map(os.fspath, words):
        folder = checkpoints.newest(runs, "metrics.jsonl") if word == "last" else Path(os.path.expanduser(word))
        if not any((folder / name).is_file() for name in OF_FOLDERS):
            folder = next((Path(runs, word) for n in OF_FOLDERS if Path(runs, word, n).is_file()), folder)
        found = [read(folder, steps=True)]
        if (folder / "sweep.yaml").is_file():
            trials = (read(path.with_suffix(""), steps=True) for path in sorted(folder.glob("trial_*.yaml")))
            found = [trial for trial in trials if trial]
        if None in found:
            known = ["last", *(path.parent.name for path in Path(runs).glob("[!.]*/metrics.jsonl"))]
            what = "its record, metrics.jsonl, does not say what it is"
            what = what if (folder / "metrics.jsonl").is_file() else "it holds no metrics.jsonl"
            what = what if folder.is_dir() else f"there is no such folder, here or in {runs}"
            raise UsageError(f"{word} is no run: {what}.{nearest(folder.name, known)} `main.py runs` lists them")
        known_folders = {other.folder.resolve() for other in histories}
        histories += [run for run in found if run and run.folder.resolve() not in known_folders]
    if not histories:
        raise UsageError(f"name one or more runs: folders, their names in {runs}, or last")
    return histories


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return type(value) in (float, int) and abs(value) <= sys.float_info.max


def number(event: dict[str, Any], name: str) -> float:
    """A number of the entry; 0 where it has none of the name."""
    value = event.get(name)
    return value if is_number(value) else 0  # type: ignore[return-value]


def numbers(event: dict[str, Any]) -> dict[str, float]:
    """The entry's numbers by name."""
    return {name: float(value) for name, value in event.items() if is_number(value)}
