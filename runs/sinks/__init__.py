"""Views of a run's record. A sink is one file here, or a class of the user's (`--sinks=path/to/file.py:Class`)."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from utils import registry
from utils.errors import UsageError

FOLDER = Path(__file__).parent
METHODS = ("log_event", "log_image", "log_text", "close", "create")


class Sink:
    """A view of a run that shows nothing; derive from it and override what you can show.

    A sink that raises is closed with one line of warning, and the training goes on.
    """

    @classmethod
    def create(cls, folder: Path, opt: Config, warn: Callable[[str], None]) -> "Sink | None":
        """The sink of the run in `folder`; None where the options do not ask for it. `warn` logs a line."""
        return cls()

    def log_event(self, event: dict[str, Any]) -> None:
        """One entry of the record.

        `event["kind"]` is "start", "resume", "step" (metrics of one step), "watch" (its layers, with `--watch`) or
        "epoch" (of a whole one). When a run is resumed, the entries so far come again.
        """

    def log_image(self, name: str, image: np.ndarray) -> None:
        """An (H, W, 3) uint8 picture."""

    def log_text(self, line: str) -> None:
        """A line that the terminal shows too."""

    def close(self) -> None:
        """The run is over."""


def load_all(opt: Config) -> list[Any]:
    """The classes, or instances given in Python, that `opt.sinks` names.

    Raises:
        UsageError: there is no such name, or it means nothing that has a method of a sink.
    """
    found = [registry.load(name, "sink") for name in opt.sinks]
    for name, sink in zip(opt.sinks, found, strict=True):
        if not any(hasattr(sink, method) for method in METHODS):
            raise UsageError(f"the sink {name} has none of the methods {', '.join(METHODS)}")
    return found


def create_all(folder: Path, opt: Config, warn: Callable[[str], None]) -> list[Any]:
    """The sinks of this folder that the options ask for, and those that `opt.sinks` names."""
    entries = registry.scan(FOLDER, "Sink", "runs.sinks").values()
    for line in registry.broken(FOLDER):
        warn(f"warning: left out: {line}")
    own = [getattr(import_module(entry.module), entry.name) for entry in entries]
    sinks = []
    for cls in [*own, *load_all(opt)]:
        if not isinstance(cls, type):  # an instance given in Python
            sinks.append(cls)
            continue
        create = getattr(cls, "create", None)
        sinks.append(create(folder, opt, warn) if create else cls())
    return [sink for sink in sinks if sink is not None]
