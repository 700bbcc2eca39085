"""What `--where` and `--sort` choose of the rows. Imports no torch."""

import operator
import re
from typing import Any

from runs.table import Row
from utils.errors import UsageError, nearest

COLUMNS = ("name", "status", "epoch", "best", "last", "seconds", "started")
TERM = re.compile(r"([\w-]+)(<=|>=|!=|==|=|<|>)(.*)")


def chosen(rows: list[Row], where: str, sort: str) -> list[Row]:
    """The rows for which all terms of `where` hold, sorted by a column; "-column": the largest first.

    Raises:
        UsageError: a term that is none, or a name that no run has.
    """
    if not where and not sort:
        return rows
    names = sorted({*(name for row in rows for name in (*row.options, *row.metrics)), *COLUMNS})
    for term in where.split():
        match = TERM.fullmatch(term)
        if not match:
            raise UsageError(f"--where: {term!r} is no condition: type NAME=VALUE, NAME<VALUE, NAME!=VALUE, ...")
        name, sign, text = match.groups()
        _check_name("--where", name, names, rows)
        rows = [row for row in rows if _holds(row.value(name), sign, text)]
    column = sort.removeprefix("-")
    if column:
        _check_name("--sort", column, names, rows)
        known = [row for row in rows if isinstance(row.value(column), (int, float, str))]
        key = lambda row: (isinstance(row.value(column), str), row.value(column))  # noqa: E731
        rest = [row for row in rows if not isinstance(row.value(column), (int, float, str))]
        rows = sorted(known, key=key, reverse=sort.startswith("-")) + rest
    return rows


def _check_name(flag: str, name: str, names: list[str], rows: list[Row]) -> None:
    if rows and name.replace("-", "_") not in names:
        raise UsageError(f"{flag}: no run has {name!r}: it is no column, metric or option.{nearest(name, names)}")


def _holds(value: Any, sign: str, text: str) -> bool:
    try:
        pair = float(value), float(text)
    except (TypeError, ValueError, OverflowError):
        pair = str(value).lower(), text.lower()  # type: ignore[assignment]
        if sign not in ("=", "==", "!="):
            return False
    compare = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
    return bool(getattr(operator, compare[sign])(*pair))
