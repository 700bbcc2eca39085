"""The data sets of torchvision: downloaded, verified and read by its own classes."""

import functools
import gzip
import importlib.util
import inspect
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.array_data import ArrayData
from data.image_data import ImageData
from data.torch_dataset import TorchDataset, arrays_of, common_classes, labels_of
from data.torchvision_table import TABLE, TorchvisionSet
from utils import files
from utils.errors import UsageError

ARCHIVES = (".gz", ".tgz", ".zip", ".tar", ".bz2")


@functools.cache
def __getattr__(name: str) -> type[ImageData]:
    """The class of a set in TABLE; its constructor takes (root, transforms, train), as in `ImageData`."""
    if name not in TABLE:
        raise AttributeError(name)
    spec = TABLE[name]
    facts = {"__doc__": spec.docstring, "__module__": __name__, "home": "data", **spec.facts}
    return type(name, (_Arrays if spec.arrays else _Files,), facts)


class _Arrays(ArrayData):
    def __init__(
        self,
        root: str | Path | None = None,
        transforms: Callable[..., Any] | None = None,
        train: bool | None = None,
    ) -> None:
        root, name = Path(root or self.home), type(self).__name__
        parts = open_parts(name, root)
        pairs: list[Any] = []
        for part in parts.values():
            pairs += [arrays_of(part, name), labels_of(part, name)]
        super().__init__(*pairs, classes=_classes(name, parts), root=root, transforms=transforms, train=train)


class _Files(TorchDataset):
    deterministic = True

    def __init__(
        self,
        root: str | Path | None = None,
        transforms: Callable[..., Any] | None = None,
        train: bool | None = None,
    ) -> None:
        root, name = Path(root or self.home), type(self).__name__
        parts = open_parts(name, root)
        classes = _classes(name, parts)
        super().__init__(*parts.values(), classes=classes, root=root, name=name, transforms=transforms, train=train)


def _classes(name: str, parts: dict[str, Any]) -> list[str] | None:
    names = TABLE[name].classes or common_classes(parts, name)
    return names and [text.partition(" - ")[0] for text in names]  # "0 - zero" of MNIST


def open_parts(name: str, root: Path) -> dict[str, Any]:
    """Opens torchvision's data sets for "train" and, if the set has this part, "val"; downloads if needed.

    Raises:
        UsageError: they are not there and cannot be downloaded, or a package is missing.
    """
    from torchvision import datasets

    spec, source = TABLE[name], getattr(datasets, name)
    if spec.requires and importlib.util.find_spec(spec.requires) is None:
        raise UsageError(f"{name} needs the package {spec.requires}: pip install {spec.requires}")
    parts = [source_arguments(source, arguments) for arguments in spec.parts]
    with suppress(Exception):  # not there, or incomplete: torchvision raises all sorts of errors
        return _opened(source, root, parts)
    try:
        _unpack(root / name / "raw")
    except (OSError, EOFError, zlib.error) as e:
        raise UsageError(f"the files in {root} cannot be unpacked ({e}): put complete copies there") from e
    with suppress(Exception):
        return _opened(source, root, parts)
    _download(name, spec, source, root, parts)
    return _opened(source, root, parts)


def source_arguments(source: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments`, and `loader=Path` if the class takes it: our own reader then decodes the files."""
    loader = {"loader": Path} if "loader" in inspect.signature(source).parameters else {}
    return {**arguments, **loader}


def _opened(source: type, root: Path, parts: list[dict[str, Any]]) -> dict[str, Any]:
    if not root.is_dir():
        raise FileNotFoundError(root)  # before a class makes it
    offline = {"download": False} if _downloads(source) else {}
    return {part: source(root, **kw, **offline) for part, kw in zip(("train", "val"), parts, strict=False)}


def _downloads(source: type) -> bool:
    passes_on = ("EMNIST", "QMNIST")  # to MNIST
    return "download" in inspect.signature(source).parameters or source.__name__ in passes_on


def _download(name: str, spec: TorchvisionSet, source: type, root: Path, parts: list[dict[str, Any]]) -> None:
    """Downloads into a folder beside, which is moved to `root` when all is there and verified."""
    place = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    files.check_writable(root, "--train-data-root", folder=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as temp:
        links = _link_archives(root, Path(temp))
        try:
            if not _downloads(source):
                raise RuntimeError("torchvision does not download it")
            for arguments in parts:
                source(Path(temp), **arguments, download=True)
        except (OSError, RuntimeError, ValueError) as e:
            reason = [type(e).__name__, *str(e).strip().splitlines()][-1]
            raise UsageError(
                f"{root} does not hold {name}, and it cannot be downloaded ({reason}). "
                f"Put there, from another machine: {spec.needed}"
            ) from e
        for link in links:
            link.unlink(missing_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        for path in Path(temp).iterdir():
            _move(path, root / path.name)


def _link_archives(root: Path, temp: Path) -> list[Path]:
    """Links to the archives in `root` and its folders, so that torchvision need not download them."""
    found = [path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.name.endswith(ARCHIVES)]
    links = [temp / path.relative_to(root) for path in found]
    for path, link in zip(found, links, strict=True):
        link.parent.mkdir(exist_ok=True)
        os.symlink(path.absolute(), link)
    return links


def _move(path: Path, target: Path) -> None:
    """Moves a file, or what is in a folder, in place of what was there."""
    if path.is_dir() and target.is_dir():
        for below in path.iterdir():
            _move(below, target / below.name)
    else:
        path.rename(target)


def _unpack(folder: Path) -> None:
    """Unpacks the files of MNIST and its relatives, which torchvision reads unpacked."""
    for packed in folder.glob("*.gz"):
        if not packed.with_suffix("").exists():
            with gzip.open(packed) as source, files.atomic_write(packed.with_suffix(""), "wb") as file:
                shutil.copyfileobj(source, file)
