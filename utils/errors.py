"""What ends a command without being a bug: reported in one line. Anything else is a bug and keeps its traceback."""

import difflib
import re
from collections.abc import Iterable

WORD, LINE = 250, 900  # characters of a word and of a message that are shown


class _OneLine(Exception):
    """Its message is one line that every terminal can show, of a length that can be read."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(_OneLine):
    """A wrong input: what is wrong, where, what was expected, what to type. Exit code 2."""


class RunError(_OneLine):
    """The machine or the numbers fail in the middle of the work: what, where, the remedy. Exit code 1."""


class Stopped(BaseException):
    """The user stops the work. `code` is the exit code: 130 after Ctrl-C, 143 after SIGTERM, 0 after a STOP file."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


def escaped(text: str) -> str:
    """The text with all that cannot be printed, line breaks too, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(message: str) -> str:
    """The message escaped, with its long words cut, and itself where it is still long: it may repeat any input."""
    short = re.sub(rf"\S{{{WORD + 1},}}", lambda word: _cut(word[0], WORD), escaped(message))
    return _cut(short, LINE)


def _cut(text: str, length: int) -> str:
    """At most about `length` characters of the text, from its start and its end."""
    return text if len(text) <= length else f"{text[: length * 2 // 3]}...{text[-length // 3 :]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean X?' for the known name most like `name`, or '' where none is alike."""
    by_lower: dict[str, str] = {}
    for k in known:
        by_lower.setdefault(k.lower(), k)
    match = difflib.get_close_matches(name[:WORD].lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[match[0]]}?" if match else ""
