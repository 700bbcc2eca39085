"""The folder of a sweep, which is all there is of it: any number of workers on any number of machines share it.

sweep.yaml           what is searched, and how
trial_007.yaml       the options of a trial, a preset as any other: whoever makes this file has the trial
trial_007/           its run; further seeds: trial_007_seed1/, ...
trial_007.json       how it has ended
.workers/            who works on which trial: files that are locked, and touched every few seconds
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import yaml

from cli import presets
from utils import files
from utils.errors import UsageError, nearest

BEAT = 5.0  # seconds between two signs of life
LOST = 60.0  # seconds without one after which a worker of another machine is taken for dead


@dataclass(frozen=True)
class Plan:
    """What is asked of a sweep.

    Attributes:
        fixed: options that all trials have. searched: options as they were typed, with ranges and choices.
        seeds: runs of each trial, whose mean counts. seed: of the first run, and of the search.
    """

    fixed: dict[str, Any]
    searched: dict[str, Any]
    sampler: str
    pruner: str
    seeds: int
    seed: int
    trials: int


@dataclass
class Trial:
    """One trial.

    Attributes:
        point: the values of what is searched. options: all that its training is given.
        ended: "complete", "pruned" or "failed"; None: not yet. value: of the monitored metric, a mean over seeds.
        values: of the monitored metric of the first seed, {epoch: value}, as far as they count. why: of a failure.
        spread: standard deviation over seeds. epoch: the best one. rungs: what Hyperband notes.
    """

    number: int
    folder: Path
    point: dict[str, Any]
    options: dict[str, Any]
    ended: str | None = None
    value: float | None = None
    values: dict[int, float] = field(default_factory=dict)
    spread: float | None = None
    epoch: int | None = None
    seconds: float = 0.0
    why: str = ""
    rungs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"trial_{self.number:03d}"

    def run(self, seed: int = 0) -> Path:
        """The run folder of its first seed, or of a further one."""
        return self.folder / (f"{self.name}_seed{seed}" if seed else self.name)


class Sweep:
    """A folder with trials."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._ended: dict[int, Trial] = {}

    @property
    def name(self) -> str:
        return self.folder.name

    @classmethod
    def begin(cls, folder: Path, plan: Plan) -> "Sweep":
        """Makes the folder, or opens one that was made for the same plan.

        Raises:
            UsageError: there is another sweep, or something else.
        """
        with files.disk_errors_as_failure(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "sweep.yaml").exists():
            if any(folder.iterdir()):
                raise UsageError(f"{folder} is no sweep, and not empty: give another --name")
            files.create(folder / "sweep.yaml", _text(plan))
        sweep = cls.open(folder)
        for name, wanted in asdict(plan).items():
            if name != "trials" and wanted != (found := asdict(sweep.plan)[name]):
                raise UsageError(
                    f"{folder} is a sweep with {name} {_told(found)}, not {_told(wanted)}: give another --name, or go "
                    f"on with `sweep --resume={folder.name}`"
                )
        return sweep.up_to(plan.trials)

    @classmethod
    def open(cls, folder: Path) -> "Sweep":
        """The sweep in a folder.

        Raises:
            UsageError: there is none, or its file cannot be read.
        """
        try:
            values = yaml.safe_load((folder / "sweep.yaml").read_text(encoding="utf-8"))
            return cls(folder, Plan(**values))
        except FileNotFoundError:
            known = [path.parent.name for path in folder.parent.glob("[!.]*/sweep.yaml")]
            hint = f"{nearest(folder.name, known)} `main.py runs` lists them"
            raise UsageError(f"{folder} is no sweep: it holds no sweep.yaml.{hint}") from None
        except (OSError, yaml.YAMLError, TypeError, ValueError) as e:
            raise UsageError(f"{folder / 'sweep.yaml'} cannot be read: {str(e).splitlines()[0]}") from e

    def up_to(self, trials: int) -> "Sweep":
        """The sweep with so many trials in the end, for all workers that begin from now on."""
        plan = replace(self.plan, trials=trials)
        if plan != self.plan:
            with files.atomic_write(self.folder / "sweep.yaml") as file:
                file.write(_text(plan))
        return Sweep(self.folder, plan)

    # ---- trials

    def trials(self) -> list[Trial]:
        """All trials that have begun, in order."""
        numbers = sorted(int(path.stem[6:]) for path in self.folder.glob("trial_*.yaml") if path.stem[6:].isdigit())
        return [trial for number in numbers if (trial := self.trial(number))]

    def trial(self, number: int) -> Trial | None:
        """As the folder tells it now; None where its options cannot be read."""
        if number in self._ended:
            return self._ended[number]
        path = self.folder / f"trial_{number:03d}.yaml"
        try:
            options = {name: value for name, (value, _) in presets.read(path).items()}
        except UsageError:
            return None
        point = {name: options[name] for name in self.plan.searched if name in options}
        trial = Trial(number, self.folder, point, options)
        with suppress(OSError, ValueError, TypeError):
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            told["values"] = {int(epoch): value for epoch, value in told["values"].items()}
            for name, value in told.items():
                setattr(trial, name, value)
        if trial.ended:
            self._ended[number] = trial
        return trial

    def claim_new(self, number: int, point: Mapping[str, Any], options: Mapping[str, Any]) -> Trial | None:
        """Begins trial `number`; None where another worker was faster."""
        path = self.folder / f"trial_{number:03d}.yaml"
        text = f"# Trial {number} of the sweep {self.name}.\n" + yaml.safe_dump(dict(options), allow_unicode=True)
        if not files.create(path, text):
            return None
        return Trial(number, self.folder, dict(point), dict(options))

    def end(self, trial: Trial) -> None:
        """Keeps how the trial has ended."""
        told = {
            name: getattr(trial, name)
            for name in ("ended", "value", "spread", "epoch", "seconds", "why", "values", "rungs")
        }
        with files.atomic_write(self.folder / f"{trial.name}.json") as file:
            json.dump(told, file)

    # ---- who works on what

    @contextmanager
    def working_on(self, trial: Trial) -> Iterator["Claim | None"]:
        """In the block this worker has the trial; None where another one that is alive has it."""
        claim = self._claim(trial)
        try:
            yield claim
        finally:
            if claim:
                claim.release()

    def is_worked_on(self, trial: Trial) -> bool:
        """Whether a worker that is alive has the trial."""
        last = self._last_claim(trial)
        return last is not None and is_alive(last)

    def _claim(self, trial: Trial) -> "Claim | None":
        if self.is_worked_on(trial):
            return None
        last = self._last_claim(trial)
        path = self.folder / ".workers" / f"{trial.number:03d}.{int(last.suffix[1:]) + 1 if last else 0}"
        path.parent.mkdir(exist_ok=True)
        file = files.create_locked(path, socket.gethostname())
        return Claim(path, file) if file else None

    def _last_claim(self, trial: Trial) -> Path | None:
        claims = (self.folder / ".workers").glob(f"{trial.number:03d}.*")
        return max(claims, key=lambda path: int(path.suffix[1:]), default=None)


def _text(plan: Plan) -> str:
    return yaml.safe_dump(asdict(plan), sort_keys=False, allow_unicode=True)


def _told(value: Any) -> str:
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


class Claim:
    """A file that says: somebody works on this trial, and is alive."""

    def __init__(self, path: Path, file: IO) -> None:
        self.path, self.file, self.over = path, file, threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self.over.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)

    @property
    def lost(self) -> bool:
        """Whether another worker has taken this one for dead."""
        return self.path.with_suffix(f".{int(self.path.suffix[1:]) + 1}").exists()

    def release(self) -> None:
        self.over.set()
        with suppress(OSError):
            os.utime(self.path, (0, 0))
        self.file.close()


def is_alive(claim: Path) -> bool:
    """Whether the worker that made the file lives: on this machine by its lock, else by its last sign of life."""
    try:
        status = claim.stat()
        with claim.open() as file:
            if file.read() == socket.gethostname() and (locked := files.is_locked(file)) is not None:
                return locked
        return _now(claim.parent) - status.st_mtime < LOST
    except OSError:
        return False


def _now(folder: Path) -> float:
    """The time of the folder's file system: the clocks of two machines may differ."""
    path = folder / f".now-{secrets.token_hex(4)}"
    try:
        path.touch()
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)
