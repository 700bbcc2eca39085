"""The data sets of torchvision: verified and read by its own classes."""

import functools
import gzip
import importlib.util
import inspect
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from data import idx
from data.array_data import ArrayData
from data.download import download, downloads
from data.image_data import ImageData
from data.torch_dataset import TorchDataset, arrays_of, common_classes, labels_of
from data.torchvision_table import TABLE
from utils import files
from utils.errors import UsageError


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
        if name in idx.PAIRS:
            _check_mean(name, root, self.arrays["train"])


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
    if name in idx.PAIRS:
        _prepare_idx(name, root / name / "raw", source)
    with suppress(Exception):  # not there, or incomplete: torchvision raises all sorts of errors
        return opened(source, root, parts)
    download(name, spec, source, root, parts, opened)
    return opened(source, root, parts)


def _prepare_idx(name: str, raw: Path, source: Any) -> None:
    """Checks the files of MNIST and its relatives, and unpacks them: torchvision reads them unpacked.

    Raises:
        UsageError: they are damaged, misnamed, of another set, or do not match.
    """
    from torchvision import datasets

    originals = {
        md5: f"{other}/{file}" for other in ("MNIST", "FashionMNIST", "KMNIST")
        for file, md5 in getattr(datasets, other).resources
    }  # fmt: skip
    idx.check_packed(raw, originals)
    try:
        _unpack(raw)
    except (OSError, EOFError, zlib.error) as e:
        raise UsageError(f"the files in {raw} cannot be unpacked ({e}): put complete copies there") from e
    classes = source.classes_split_dict["balanced"] if name == "EMNIST" else source.classes
    idx.check_unpacked(raw, idx.PAIRS[name], len(classes))


def _check_mean(name: str, root: Path, images: np.ndarray) -> None:
    """Refuses the images of a relative of MNIST that lie in the folder of another: their mean tells."""
    own, mean = TABLE[name].facts.get("mean", (0,))[0], float(images.mean()) / 255
    for other in idx.PAIRS:
        theirs = TABLE[other].facts.get("mean", (0,))[0]
        if len(images) == 60_000 and abs(mean - theirs) < 1e-4 < abs(mean - own):
            raise UsageError(f"{root / name} holds the images of {other}: use --dataset={other}, or replace them")


def source_arguments(source: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments`, and `loader=Path` if the class takes it: our own reader then decodes the files."""
    loader = {"loader": Path} if "loader" in inspect.signature(source).parameters else {}
    return {**arguments, **loader}


def opened(source: type, root: Path, parts: list[dict[str, Any]]) -> dict[str, Any]:
    if not root.is_dir():
        raise FileNotFoundError(root)  # before a class makes it
    offline = {"download": False} if downloads(source) else {}
    return {part: source(root, **kw, **offline) for part, kw in zip(("train", "val"), parts, strict=False)}


def _unpack(folder: Path) -> None:
    """Unpacks the files of MNIST and its relatives, which torchvision reads unpacked."""
    for packed in folder.glob("*.gz"):
        if not packed.with_suffix("").exists():
            with gzip.open(packed) as source, files.atomic_write(packed.with_suffix(""), "wb") as file:
                shutil.copyfileobj(source, file)
