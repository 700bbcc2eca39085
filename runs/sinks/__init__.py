"""Views of a run's record. A sink is one file here, or a class of the user's (`--sinks=path/to/file.py:Class`)."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Config
from utils import registry
from utils.errors import UsageError, nearest

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

FOLDER = Path(__file__).parent
METHODS = ("log_event", "replay", "log_image", "log_text", "log_net", "wait", "close", "create")


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
        "epoch" (of a whole one).
        """

    def replay(self, events: list[dict[str, Any]]) -> None:
        """The run is resumed: called first, with the entries that its record keeps. What else was shown is void."""
        for event in events:
            self.log_event(event)

    def log_image(self, name: str, image: "np.ndarray") -> None:
        """An (H, W, 3) uint8 picture; it follows the entry of its epoch."""

    def log_net(self, net: "nn.Module") -> None:
        """The net that learns: before the first step, and after each epoch's entry. It must stay as it is."""

    def log_text(self, line: str) -> None:
        """A line that the terminal shows too."""

    def wait(self) -> str:
        """Waits until all is shown; returns in one line why that cannot be, else ""."""
        return ""

    def close(self) -> None:
        """The run is over."""


def check(opt: Config) -> None:
    """Refuses a view whose package is missing.

    Raises:
        UsageError: says how to install it.
    """
    if opt.tensorboard and not find_spec("tensorboard"):
        raise UsageError("--tensorboard needs the package tensorboard: pip install tensorboard; or --no-tensorboard")


def find(name: str) -> Any:
    """The class that `name` means: a file's name in this folder, as visdom, or path/to/file.py:Class.

    Raises:
        UsageError: there is none.
    """
    if registry.is_external(name):
        return load_all(Config(sinks=[name]))[0]
    own = {entry.module.rpartition(".")[2]: entry for entry in registry.scan(FOLDER, "Sink", "runs.sinks").values()}
    if name not in own:
        known = f"{', '.join(own)}, or path/to/file.py:Class"
        raise UsageError(f"--to={name} is no view: it takes {known}.{nearest(name, own)}{registry.left_out(FOLDER)}")
    return getattr(import_module(own[name].module), own[name].name)


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


def create(cls: Any, folder: Path, opt: Config, warn: Callable[[str], None]) -> Any:
    """The sink of a class; an instance, given in Python, is one."""
    if not isinstance(cls, type):
        return cls
    make = getattr(cls, "create", None)
    return make(folder, opt, warn) if make else cls()


def create_all(folder: Path, opt: Config, warn: Callable[[str], None]) -> list[Any]:
    """The sinks of this folder that the options ask for, and those that `opt.sinks` names."""
    entries = registry.scan(FOLDER, "Sink", "runs.sinks").values()
    for line in registry.broken(FOLDER):
        warn(f"warning: left out: {line}")
    own = [getattr(import_module(entry.module), entry.name) for entry in entries]
    sinks = []
    for cls in [*own, *load_all(opt)]:
        sinks.append(create(cls, folder, opt, warn))
    return [sink for sink in sinks if sink is not None]
