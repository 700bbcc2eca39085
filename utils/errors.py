"""Mistakes of the user: one clear line, exit code 2. Anything else is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A wrong input, told in one line: what is wrong, where, what was expected, what to type."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean X?' for the known name most like `name`, or '' where none is alike."""
    by_lower = {}
    for k in known:
        by_lower.setdefault(k.lower(), k)
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[match[0]]}?" if match else ""
