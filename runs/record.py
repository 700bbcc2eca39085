"""The files to which a training adds lines: its record, metrics.jsonl, and log.txt."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils import files
from utils.errors import UsageError


def to_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON, which has no NaN and no infinity: null stands for them."""
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class LineFile:
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
        """What was added so far survives a power cut."""
        with files.disk_errors_as_failure(self.path), suppress(ValueError):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


class Record(LineFile):
    """metrics.jsonl: one JSON object a line. It is the truth, of which every sink is a view."""

    def log_event(self, event: Mapping[str, Any]) -> None:
        self.add(to_json(event))

    def cut_back(self, limits: Mapping[str, int]) -> list[dict[str, Any]]:
        """Drops the entries of a kind in `limits` whose number is above its limit, and lines that are no entry, such as
        a torn one; returns the rest. The number is that of the step or epoch; "watch" has that of its step.
        """
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                if _stays(event, limits):
                    kept.append(event)
        with files.atomic_write(self.path) as file:
            file.writelines(to_json(event) + "\n" for event in kept)
        self.file.close()
        with files.disk_errors_as_failure(self.path):
            self.file = self.path.open("ab", buffering=0)
        return kept


def _stays(event: Any, limits: Mapping[str, int]) -> bool:
    kind = event.get("kind") if isinstance(event, dict) else None
    if not isinstance(kind, str):
        return False
    number = event.get("step" if kind == "watch" else kind)
    return kind not in limits or (type(number) is int and number <= limits[kind])


class Log(LineFile):
    """log.txt: what the terminal said. Locked during a training, so that no second one resumes in its folder.

    Raises:
        UsageError: another process trains in this folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if not files.lock(self.file):
            raise UsageError(
                f"another process is training in {path.parent}: wait for it, or stop it with `touch {path.parent}/STOP`"
            )
