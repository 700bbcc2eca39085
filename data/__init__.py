"""Data sets by name: one file each, a class that derives from `ImageData`. Importing this package needs no torch."""

import functools
from importlib import import_module
from pathlib import Path

from utils import registry
from utils.errors import UsageError


@functools.cache
def entries() -> dict[str, registry.Entry]:
    """{class name: Entry} of this folder's data sets."""
    return registry.scan(Path(__file__).parent, base="ImageData")


def names() -> list[str]:
    return list(entries())


def find(name: str) -> str:
    """The data set that the user means by `name`; raises UsageError with the known names where there is none."""
    return registry.find(name, names(), "data set")


def open(name: str, root: str | None = None):  # noqa: A001 - data.open(...) is how it reads
    """The data set `name` in the folder `root` (None: the set's home): an `ImageData`, with `classes` and `items`.

    Raises:
        UsageError: the folder is missing or holds no such images.
    """
    try:
        return _class(find(name))(root)
    except UsageError as e:
        raise UsageError(f"{e}{_other(find(name), root) if '?' not in str(e) else ''}") from None


def _other(name: str, root: str | None) -> str:
    """A hint at another data set that the folder inspections like."""
    others = (other for other in names() if other not in (name, "Demo"))  # Demo's images are DogCat's
    fitting = next((other for other in others if root and _class(other).matches(Path(root))), None)
    return f" It inspections like a {fitting}: train with --dataset={fitting}" if fitting else ""


def _class(name: str) -> type:
    entry = entries()[name]
    return getattr(import_module(entry.module), entry.name)
