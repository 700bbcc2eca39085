"""What ends a command without being a bug: reported in one line. Anything else is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable
from types import FrameType

from utils.text import one_line

LONGEST = 100  # characters of a name for which a like one is sought


class OneLineError(Exception):
    """An error that is told in one printable line, whatever the names and values in it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(OneLineError):
    """A wrong input: what is wrong, where, what was expected, what to type. Exit code 2."""


class NoEffectError(UsageError):
    """An option that the others leave without effect: `option`."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


class RunError(OneLineError):
    """The machine or the numbers fail in the middle of the work: what, where, the remedy. Exit code 1."""


class Stopped(BaseException):
    """The user stops the work. `code` is the exit code: 130 after Ctrl-C, 143 after SIGTERM, 0 after a STOP file."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


def in_import(frame: FrameType | None) -> bool:
    """Whether a module is being imported in `frame`: an exception there would leave half of it."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def install(*packages: str) -> str:
    """What to type to have packages, in the versions that the tests ran with."""
    return f"PIP_CONSTRAINT=constraints.txt pip install -r requirements.txt {' '.join(packages)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean X?' for the known name most like `name`, or '' where none is alike."""
    by_lower: dict[str, str] = {}
    for k in known:
        by_lower.setdefault(k.lower(), k)
    match = difflib.get_close_matches(name.lower()[:LONGEST], by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[match[0]].removesuffix('_')}?" if match else ""  # class_ is typed as class
