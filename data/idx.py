"""Checks files of MNIST's format (IDX: a magic number, the sizes, the values) before they are read.

Source: LeCun, Cortes, Burges, The MNIST database of handwritten digits, "FILE FORMATS FOR THE MNIST DATABASE".
"""

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import UsageError
from utils.text import printable

PLAIN = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
PAIRS = {  # of (images, labels), by the set
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST"), PLAIN),
    "EMNIST": tuple(
        (f"emnist-balanced-{part}-images-idx3-ubyte", f"emnist-balanced-{part}-labels-idx1-ubyte")
        for part in ("train", "test")
    ),
    "QMNIST": tuple(
        (f"qmnist-{part}-images-idx3-ubyte", f"qmnist-{part}-labels-idx2-int") for part in ("train", "test")
    ),
}
BYTES = {8: 1, 9: 1, 11: 2, 12: 4, 13: 4, 14: 8}  # of a value, by the third byte of the file


def check_packed(raw: Path, checksums: dict[str, str]) -> None:
    """Checks the packed files of a set, which are `raw`/*.gz, where they are the original ones of another.

    Args:
        checksums: {MD5: "set/file"} of the original files of all sets in this format.

    Raises:
        UsageError: one is the file of another set, or another file of this one.
    """
    for path in sorted(raw.glob("*.gz")):
        known = checksums.get(hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
        if known and known != f"{raw.parent.name}/{path.name}":
            raise UsageError(f"{path} is the original file {known}: put the right one there, or train with that set")


def check_unpacked(raw: Path, pairs: Sequence[tuple[str, str]], num_classes: int) -> None:
    """Checks the files of images and labels, as far as they are there.

    Args:
        pairs: names of (images, labels), one pair for each part of the set.

    Raises:
        UsageError: one is damaged, or another kind of file; labels and images do not match.
    """
    for images, labels in pairs:
        paths = raw / images, raw / labels
        shapes = [_shape(path, kind) for path, kind in zip(paths, ("images", "labels"), strict=True) if path.is_file()]
        if len(shapes) < 2:
            continue
        if shapes[0][0] != shapes[1][0]:
            raise UsageError(f"{paths[0]} holds {shapes[0][0]:,} images and {paths[1].name} {shapes[1][0]:,} labels")
        if shapes[0][1] != shapes[0][2]:
            raise UsageError(f"{paths[0]}: its images are {shapes[0][2]} x {shapes[0][1]} pixels, expected squares")
        if len(shapes[1]) == 1:
            values = np.fromfile(paths[1], np.uint8, offset=8)
            if len(values) and values.max() >= num_classes:
                raise UsageError(f"{paths[1]} has the label {values.max()}: expected 0 to {num_classes - 1}")


def find_misnamed(raw: Path, pairs: Sequence[tuple[str, str]]) -> str:
    """A hint at a file that has one of the names but for dots and dashes, as `train-images.idx3-ubyte`; or ""."""
    wanted = {_letters(name): name for pair in pairs for name in pair}
    for path in sorted(raw.parent.glob("*")) + sorted(raw.glob("*")):
        name = path.name.removesuffix(".gz")
        right = wanted.get(_letters(name))
        if path.is_file() and right and (name != right or path.parent != raw):
            return f". {printable(path)} may be one of them: move it to {raw / (right + path.name.removeprefix(name))}"
    return ""


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _shape(path: Path, kind: str) -> tuple[int, ...]:
    """The sizes that the header says.

    Raises:
        UsageError: it is no IDX file, holds another kind, or more or fewer values than the header says.
    """
    wanted = 3 if kind == "images" else 1
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in BYTES:
            raise UsageError(f"{path} is damaged, or no file of MNIST's format: copy it again")
        dimensions = head[3]
        if dimensions != wanted and not (kind == "labels" and dimensions == 2):  # QMNIST's have more columns
            found = "images" if dimensions == 3 else "labels" if dimensions == 1 else f"{dimensions} dimensions"
            raise UsageError(f"{path} holds {found}, expected {kind}: is it misnamed?")
        sizes = file.read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise UsageError(f"{path} is damaged: it ends in its header; copy it again")
    shape = struct.unpack(f">{dimensions}I", sizes)
    expected = 4 + 4 * dimensions + BYTES[head[2]] * int(np.prod(shape, dtype=object))
    if size != expected:
        raise UsageError(f"{path} is damaged: it has {size:,} bytes, and its header says {expected:,}; copy it again")
    return shape
