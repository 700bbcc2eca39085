"""The base class of all data sets, and how they are split."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.listing import endings, files_below, find_unlabelled, first_files, folders_in, image_files, is_image
from utils.errors import UsageError
from utils.text import counted, printable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ImageData", "Items", "first_files", "image_files", "is_image"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Items = list[tuple[Path, int]]
SHOWN = 5  # classes in a line


class ImageData:
    """Labelled images. A data set derives from this class and implements `scan`.

    Every data set is also a map-style data set for torch's DataLoader: see `__getitem__`.

    Attributes:
        classes: class names; a label is an index into this list.
        items: (path, label) of every image, sorted by path.
        val_items: the validation part that the set itself defines, not part of `items`; [] if it has none.
        test_items: the test part that the set itself defines, for `val --split=test`; [] if it has none.
        notes: lines about what was read, which training prints first.
        home: the folder that is read if none is given.
        layout: what the folder should hold, in words.
        deterministic: whether reading an item always gives the same image, so that it can be kept in memory.
        channels: 3 (RGB) or 1 (grey).
        mean, std: of each channel over the set, for pixels in [0, 1].
        image_size, min_crop, flip, val_part: defaults of the options image_size, min_crop, flip and
            val_fraction.
    """

    classes: list[str]
    items: Items
    val_items: Items = []
    test_items: Items = []
    notes: list[str] = []
    home: str = "data/train"
    layout: str = ""
    deterministic: bool = True
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224
    min_crop: float = 0.25
    flip: bool = True
    val_part: float = 0.3
    transforms: Callable[..., Any] | None = None
    _augmented: bool = False  # whether __getitem__ crops and flips at random
    _ids: list[int] | list[str] | None = None  # of unlabelled images

    def __init__(
        self,
        root: str | Path | None = None,
        transforms: Callable[..., Any] | None = None,
        train: bool | None = None,
        test: bool = False,
    ) -> None:
        """Lists the images under `root`.

        Args:
            root: the folder; None: `home`.
            transforms: what `__getitem__` applies to an RGB PIL image; None: see `__getitem__`.
            train: True: only the training part, False: only the validation part, None: all images.
            test: `root` holds images without labels; `__getitem__` gives their ids instead of labels.

        Raises:
            UsageError: the folder is missing, or has fewer than two classes of two images each.
        """
        self.root = Path(root or self.home)
        if not os.path.isdir(self.root):
            what = f"{self.root} is a file" if os.path.exists(self.root) else f"no folder {self.root}"
            raise UsageError(
                f"{what}: give the images as --train-data-root=DIR, or train on the built-in images with --config=demo"
            )
        if test:
            self.classes, self.transforms = [], transforms
            found, _ = find_unlabelled(self.root)
            self.items = [(path, -1) for _, path in found]
            names = [name for name, _ in found]
            numbers = all(name.isdecimal() and str(int(name)) == name for name in names)
            self._ids = [int(name) for name in names] if numbers else names
            return
        try:
            self.classes, self.items = self.scan(self.root)
        except OSError as e:
            raise UsageError(f"{printable(e.filename)} cannot be read: {e.strerror}") from e
        if not self._usable(self.classes, self.items):
            raise UsageError(f"{self.root} is no {self.name} data set: {self._lacks()}.{self._nearby()}")
        self._select(transforms, train)

    def scan(self, root: Path) -> tuple[list[str], Items]:
        """Returns (classes, items) of the folder `root`; ignores files that do not belong to the set."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What messages call the set."""
        return type(self).__name__

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the first files of `root` look like this data set; for hints in error messages."""
        return False

    def load(self, path: Path) -> "Path | Image.Image":
        """Where the pixels of an item come from: an image file, or an image in memory."""
        return path

    def pixels(self, items: Items) -> "np.ndarray | None":
        """(N, H, W, C) uint8 of a set that is held in memory as arrays; None for all others."""
        return None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, int | str]:
        """Returns (image, label), or (image, id) of an unlabelled image.

        The image is what `transforms` returns; by default float32 (C, S, S), normalized by `mean` and `std`,
        S = `image_size`: a random crop, flipped half of the time if `flip`, for train=True; else the middle
        square.

        Raises:
            UsageError: the image cannot be read.
        """
        from data.getitem import load_transformed  # imports torch, which listing files does not need

        path, label = self.items[index]
        image = load_transformed(self, path, self.transforms, self._augmented)
        return image, self._ids[index] if self._ids is not None else label

    def split(self, val_fraction: float | None, seed: int) -> tuple[Items, Items]:
        """Returns (training items, validation items).

        The book (chapter 6) shuffles the files and cuts at 70%. Here the order comes from a hash of (seed,
        file name), so it depends neither on the folder's place nor on the order of listing. Each part has
        every class.

        Args:
            val_fraction: the fraction of each class for validation, in (0, 1); None: the validation part that
                the set itself defines, else `val_part` of each class.
        """
        if val_fraction is None and self.val_items:
            return self.items, self.val_items
        val_fraction = val_fraction or self.val_part
        by_class: list[Items] = [[] for _ in self.classes]
        for item in self.items:
            by_class[item[1]].append(item)
        train, val = [], []
        for mine in by_class:
            mine.sort(key=lambda item: self._rank(item[0], seed))
            cut = min(max(round(len(mine) * val_fraction), 1), len(mine) - 1)
            val += mine[:cut]
            train += mine[cut:]
        return sorted(train), sorted(val)

    def part(self, split: str, val_fraction: float | None, seed: int) -> Items:
        """The items of a split: "train" or "val" as in `split`, "test", or "all" that have labels.

        Raises:
            UsageError: the set defines no test part.
        """
        if split == "all":
            return sorted({*self.items, *self.val_items, *self.test_items})
        if split == "test":
            if not self.test_items:
                raise UsageError(f"{self.name} in {self.root} has no test part: use --split=val, train or all")
            return self.test_items
        return self.split(val_fraction, seed)[split == "val"]

    def summary(self, image_size: int | None) -> str:
        """What was read, in one line: classes, their images, the side at which the net sees them, what is left out."""
        count = Counter(label for _, label in self.items + self.val_items)
        names = [f"{name} {count[label]}" for label, name in enumerate(self.classes[:SHOWN])]
        few, many = min(count.values()), max(count.values())
        each = f"{few} to {many}" if few < many else str(few)
        more = f", ... {each} images each" if len(self.classes) > SHOWN else ""
        classes = f"{counted(len(self.classes), 'class', 'classes')}: {', '.join(names)}{more}"
        left = self.left_out()
        place = printable(left[0].relative_to(self.root)) if left else ""
        out = f"; {counted(len(left), 'file')} left out ({endings(left)}), as {place}" if left else ""
        return f"{self.name} in {printable(self.root)}: {classes}; seen at {image_size} x {image_size} pixels{out}"

    def left_out(self) -> list[Path]:
        """The files under the root that do not belong to the set, sorted; without hidden ones."""
        taken = {path for path, _ in self.items + self.val_items + self.test_items}
        return sorted(path for path in files_below(self.root) if path not in taken)

    def fingerprint(self, items: Items) -> str:
        """A SHA-256 of the files' names below the root and their sizes: the same images give the same one."""
        lines = (f"{path.relative_to(self.root).as_posix()} {path.stat().st_size}" for path, _ in items)
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

    def _select(self, transforms: Callable[..., Any] | None, train: bool | None) -> None:
        self.transforms, self._augmented = transforms, bool(train)
        if train is not None:
            self.items, self.val_items = self.split(None, seed=0)[0 if train else 1], []

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
        folders = folders_in(self.root)
        return next((f" Did you mean {folder}?" for folder in folders if self.matches(folder)), "")
