"""What a labelled data set is, and how it is split."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils.errors import UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Items = list[tuple[Path, int]]


class ImageData:
    """Labelled images on disk. A data set derives from this class and says how a folder is read.

    Attributes:
        classes: class names; a label is a position in this list.
        items: (path, label) of every image, sorted by path.
        val_items: those of a part that the set itself keeps for validation; no part of `items`.
        home: where the images are expected when no folder is given.
        layout: what the folder should hold, in words.
        channels, mean, std: of a pixel; mean and deviation of each channel, in [0, 1].
        image_size, min_crop, flip: what these options are where nobody sets them; val_part: what val_fraction is.
    """

    classes: list[str]
    items: Items
    val_items: Items = []
    home = "data/train"
    layout = ""
    channels, mean, std = 3, IMAGENET_MEAN, IMAGENET_STD
    image_size, min_crop, flip = 224, 0.25, True
    val_part = 0.3

    def __init__(self, root: str | Path | None = None) -> None:
        """Lists the images under `root`.

        Raises:
            UsageError: the folder is missing, or has fewer than two classes of two images each.
        """
        self.root = Path(root or self.home)
        if not self.root.is_dir():
            what = f"{self.root} is a file" if self.root.exists() else f"no folder {self.root}"
            raise UsageError(
                f"{what}: give the images as --train-data-root=DIR, or train on the built-in images with --config=demo"
            )
        try:
            self.classes, self.items = self.scan(self.root)
        except OSError as e:
            raise UsageError(f"{e.filename} cannot be read: {e.strerror}") from e
        if not self._usable(self.classes, self.items):
            raise UsageError(f"{self.root} is no {type(self).__name__} data set: {self._lacks()}.{self._nearby()}")

    def scan(self, root: Path) -> tuple[list[str], Items]:
        """Returns (classes, items) of the folder `root`; files that are no part of the set are left out."""
        raise NotImplementedError

    @classmethod
    def matches(cls, root: Path) -> bool:
        """A quick look, for hints: whether the first files of `root` are such images."""
        raise NotImplementedError

    def pixels(self, items: Items) -> np.ndarray | None:
        """(N, H, W, C) uint8, the images of `items`, of a set that comes as arrays; None where they are files."""

    def split(self, val_fraction: float | None, seed: int) -> tuple[Items, Items]:
        """Returns (training items, validation items); `val_fraction` of each class is for validation.

        None: the part that the set itself holds out, else `val_part`. The book (chapter 6) shuffles the
        files and cuts at 70%. Here the order comes from a hash of (seed, file name): where the folder lies and how
        its files are listed change nothing. Each part has every class.
        """
        if val_fraction is None and self.val_items:
            return self.items, self.val_items
        val_fraction = val_fraction or self.val_part
        by_class = [[] for _ in self.classes]
        for item in self.items:
            by_class[item[1]].append(item)
        train, val = [], []
        for mine in by_class:
            mine.sort(key=lambda item: self._rank(item[0], seed))
            cut = min(max(round(len(mine) * val_fraction), 1), len(mine) - 1)
            val += mine[:cut]
            train += mine[cut:]
        return sorted(train), sorted(val)

    def left_out(self) -> list[Path]:
        """The files under the root, sorted, that no rule of the data set takes in; not those in hidden folders."""
        taken = {path for path, _ in self.items + self.val_items}
        return sorted(path for path in files_below(self.root) if path not in taken)

    def fingerprint(self, items: Items) -> str:
        """A hash of the files' names below the root and sizes: the same images give the same one, wherever they lie."""
        lines = (f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}" for path, _ in items)
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

    def _rank(self, path: Path, seed: int) -> bytes:
        name = f"{seed}/{path.relative_to(self.root).as_posix()}"
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    @staticmethod
    def _usable(classes: list[str], items: Items) -> bool:
        count = Counter(label for _, label in items)
        return len(classes) > 1 and all(count[k] > 1 for k in range(len(classes)))

    def _lacks(self) -> str:
        count = Counter(label for _, label in self.items)
        found = ", ".join(f"{count[k]} of {name}" for k, name in enumerate(self.classes)) or "no images"
        return f"expected {self.layout}; found {found}"

    def _nearby(self) -> str:
        """A hint at the sub-folder that the user may have meant."""
        folders = sorted(p for p in self.root.iterdir() if p.is_dir())
        return next((f" Did you mean {folder}?" for folder in folders if self.matches(folder)), "")


def first_files(folder: Path, count: int = 100) -> list[Path]:
    """Some files of a folder, however large it is; none where it may not be read."""
    with suppress(OSError):
        return list(itertools.islice(folder.iterdir(), count))
    return []


def files_below(root: Path) -> Iterator[Path]:
    """Every file below `root`; folders that are hidden, or may not be read, are left out."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names)


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image; hidden files never are."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
