"""Where a run's figures go. The record (metrics.jsonl) is the truth, every other sink is a view of it."""

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils import files
from utils.errors import UsageError
from utils.visualize import Visualizer

try:
    from fcntl import LOCK_EX, LOCK_NB, lockf
except ImportError:  # Windows
    lockf = None


class Sink:
    """A sink that takes nothing; derive from it and take what you can show."""

    def record(self, event: dict) -> None:
        """One entry of the record.

        `kind` is "start", "resume", "step" (figures of one step) or "epoch" (of a whole one).
        """

    def picture(self, name: str, image: np.ndarray) -> None:
        """An (H, W, 3) uint8 picture."""

    def text(self, line: str) -> None:
        """A line that the terminal shows too."""

    def sync(self) -> None:
        """What was taken so far must survive a power cut."""

    def close(self) -> None:
        """The run is over."""


class Lines(Sink):
    """A file to which lines are added; each reaches the operating system at once.

    Raises:
        RunError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with files.disk_errors_as_failure(path):
            self.file = path.open("ab", buffering=0)

    def add(self, line: str) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        with files.disk_errors_as_failure(self.path):
            size = os.fstat(self.file.fileno()).st_size
            try:
                while data:
                    data = data[self.file.write(data) :]
            except OSError:
                self.file.truncate(size)  # a disk that is nearly full took a part of the line
                raise

    def sync(self) -> None:
        with files.disk_errors_as_failure(self.path), suppress(ValueError):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


class Jsonl(Lines):
    """metrics.jsonl: one JSON object a line."""

    def record(self, event: dict) -> None:
        self.add(json.dumps(event))

    def cut_back(self, limits: dict[str, int]) -> list[dict]:
        """Drops the entries of a kind in `limits` whose number is above its limit, and torn lines; returns the rest."""
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                kind = event["kind"]
                if kind not in limits or event[kind] <= limits[kind]:
                    kept.append(event)
        with files.atomic_write(self.path) as file:
            file.writelines(json.dumps(event) + "\n" for event in kept)
        self.file.close()
        self.file = self.path.open("ab", buffering=0)
        return kept


class Log(Lines):
    """log.txt: what the terminal said. Locked while a training writes it, so that no second one goes on in its folder.

    Raises:
        UsageError: another process trains in this folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            if lockf:
                lockf(self.file, LOCK_EX | LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UsageError(
                f"another process is training in {path.parent}: wait for it, or stop it with `touch {path.parent}/STOP`"
            ) from None
        except OSError:  # a file system without locks
            pass

    def text(self, line: str) -> None:
        self.add(line)


class Visdom(Sink):
    """The visdom page: lines against the step or the epoch, the confusion matrix, pictures, the log."""

    hidden = {"step": ("time",), "epoch": ("time", "seconds", "rate", "lr", "val_score")}

    def __init__(self, vis: Visualizer) -> None:
        self.vis = vis

    def record(self, event: dict) -> None:
        by = event["kind"]
        if "classes" in event:
            self.classes = event["classes"]
        if by not in self.hidden:
            return
        shown = {k: v for k, v in event.items() if isinstance(v, float) and k not in self.hidden[by]}
        titles = {name: name.replace("_", " ") + (" by step" if by == "step" else "") for name in shown}
        self.vis.plot_many({titles[name]: value for name, value in shown.items()}, x=event[by], xlabel=by)
        if "val_confusion" in event:
            opts = {"title": "confusion matrix", "rownames": self.classes, "columnnames": self.classes}
            self.vis.heatmap(np.array(event["val_confusion"]), win="confusion matrix", opts=opts)

    def picture(self, name: str, image: np.ndarray) -> None:
        self.vis.img(name, image.transpose(2, 0, 1))

    def text(self, line: str) -> None:
        self.vis.log(line)

    def close(self) -> None:
        self.vis.close()
