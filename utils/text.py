"""Text that is safe to show: in one line, printable, not too long."""

import os
import re
from collections.abc import Iterable

FEW = 5  # names in a line
LONG_WORD, LONG = 300, 1200  # characters: of a word, of a message


def printable(text: str | os.PathLike) -> str:
    """The text, or path, in one line that every terminal can show: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def without_home(text: str) -> str:
    """The text with ~ for the user's home folder, whose name is often the user's."""
    home = os.path.expanduser("~").rstrip("/\\")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text


def counted(count: int, thing: str, things: str = "") -> str:
    """The number and the noun: `1 file`, `2 files`. `things`: the plural, where it takes more than an s."""
    return f"{count} {thing if count == 1 else things or thing + 's'}"


def few(names: Iterable[str]) -> str:
    """The first names, and how many there are: `a, b, c, d, e, ... (7)`."""
    names = list(names)
    return ", ".join(names[:FEW]) + (f", ... ({len(names)})" if len(names) > FEW else "")


def one_line(text: object) -> str:
    """A message in one printable line; the middle of what is very long in it is left out."""
    words = printable(text if isinstance(text, str) else str(text)).split(" ")
    return _shortened(" ".join(_shortened(word, LONG_WORD) for word in words), LONG)


def _shortened(text: str, longest: int) -> str:
    half = longest // 2 - 10
    return text if len(text) <= longest else f"{text[:half]}[...{len(text) - 2 * half}...]{text[-half:]}"
