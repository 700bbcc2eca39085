"""Data sets by name, each a class that derives from `ImageData`. Importing this package needs no torch.

A name is a class of this folder ("DogCat"), a classification set of torchvision ("CIFAR10"), or code outside
of the repository ("path/to/file.py:Class", "package.module:Class"). The classes are also attributes:
`data.DogCat`.
"""

import functools
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.torchvision_table import TABLE
from utils import registry
from utils.errors import UsageError

if TYPE_CHECKING:
    from data.image_data import ImageData

FOLDER = Path(__file__).parent
BASES = {"ArrayData", "TorchDataset"}  # no data sets themselves


@functools.cache
def entries() -> dict[str, registry.Entry]:
    """{class name: Entry} of this folder's data sets and of torchvision's."""
    return _own() | {
        name: registry.Entry(
            name=name,
            module="data.torchvision_sets",
            path=Path(__file__).with_name("torchvision_table.py"),
            docstring=spec.docstring,
            bases=("ImageData",),
            constants=spec.facts,
            parameters=("root", "transforms", "train"),
        )
        for name, spec in sorted(TABLE.items())
    }


@functools.cache
def _own() -> dict[str, registry.Entry]:
    found = registry.scan(FOLDER, base="ImageData")
    return {name: entry for name, entry in found.items() if name not in BASES}


def names() -> list[str]:
    """The names of all data sets in this repository: this folder's, then torchvision's."""
    return list(entries())


def find(name: str) -> str:
    """The data set that the user means by `name`; code outside of the repository is not run.

    Raises:
        UsageError: there is none; with the nearest name.
    """
    if registry.is_external(name):
        registry.external(name, "data set")
        return name
    return registry.find(name, _own(), "data set", {"torchvision": TABLE}, FOLDER)


def open(name: str, root: str | Path | None = None) -> "ImageData":  # noqa: A001 - read as data.open(...)
    """The data set `name` in the folder `root` (None: the set's `home`).

    Raises:
        UsageError: the folder is missing or holds no such images.
    """
    name = find(name)
    if registry.is_external(name):
        from data.external import open_external

        return open_external(name, root)
    try:
        return _class(name)(root)
    except UsageError as e:
        raise UsageError(f"{e}{_other(name, root) if '?' not in str(e) else ''}") from None


def _other(name: str, root: str | Path | None) -> str:
    """A hint at another data set that the folder looks like."""
    others = (other for other in _own() if other not in (name, "Demo"))  # Demo's images are DogCat's
    match = None
    with suppress(Exception):  # a hint is not worth an error of another set's
        match = next((other for other in others if root and _class(other).matches(Path(root))), None)
    return f" It looks like a {match}: train with --dataset={match}" if match else ""


def _class(name: str) -> "type[ImageData]":
    entry = entries()[name]
    return getattr(import_module(entry.module), entry.name)


def __getattr__(name: str) -> Any:
    if name in entries():
        return _class(name)
    raise AttributeError(f"module 'data' has no attribute {name!r}.{registry.left_out(FOLDER)}")
