"""Text that is safe to show: in one line, printable, not too long."""

import csv
import io
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


def csv_line(cells: Iterable[object]) -> str:
    """One line of CSV. The module csv quotes a line break in a cell only where it ends lines with the same one."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def few(names: Iterable[str]) -> str:
    """The first names, and how many there are: `a, b, c, d, e, ... (7)`."""
    names = list(names)
    return ", ".join(names[:FEW]) + (f", ... ({len(names)})" if len(names) > FEW else "")


def in_short(seconds: float) -> str:
    """A time in few characters: `59s`, `12m`, `3.4h`, `2.1d`."""
    for length, unit in ((86400, "d"), (3600, "h")):
        if seconds >= length:
            return f"{seconds / length:.1f}{unit}"
    return f"{seconds / 60:.0f}m" if seconds >= 99.5 else f"{seconds:.0f}s"


def in_words(seconds: float) -> str:
    """A time as it is said: `9.5 s`, `1 min 35 s`, `3 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def fitted(head: str, parts: list[str], extra: list[str], tail: str, width: int = 80) -> str:
    """One line of words in so many columns: of `extra` as many as there is room for, of `parts` all if possible."""
    ends = [tail] if tail else []
    lines = ["  ".join([head, *parts, *extra[:count], *ends]) for count in range(len(extra), -1, -1)]
    lines += [" ".join([head, *parts[:count], *ends]) for count in range(len(parts), -1, -1)]
    return next((line for line in lines if len(line) <= width), lines[-1])


def one_line(text: object) -> str:
    """A message in one printable line; the middle of what is very long in it is left out."""
    words = printable(text if isinstance(text, str) else str(text)).split(" ")
    return _shortened(" ".join(_shortened(word, LONG_WORD) for word in words), LONG)


def _shortened(text: str, longest: int) -> str:
    half = longest // 2 - 10
    return text if len(text) <= longest else f"{text[:half]}[...{len(text) - 2 * half}...]{text[-half:]}"


def width_of(text: str) -> int:
    """The columns of a terminal that the text takes: a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from tqdm.utils import disp_len

    return disp_len(text)


def padded(text: str, width: int) -> str:
    """The text with spaces behind it, in `width` columns of a terminal at least."""
    return text + " " * (width - width_of(text))


def clipped(text: str, width: int) -> str:
    """The beginning of the text that `width` columns of a terminal hold."""
    while text and width_of(text) > width:
        text = text[: -max(1, (width_of(text) - width) // 2)]
    return text


def shortened(text: str, width: int) -> str:
    """The text in `width` columns of a terminal; where it is longer, its middle is left out."""
    if width_of(text) <= width:
        return text
    tail = clipped(text[::-1], width // 2)[::-1]
    return clipped(text, width - 1 - width_of(tail)) + "…" + tail
