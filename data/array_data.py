"""Data sets that are held in memory as arrays."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.folder import small_square
from data.image_data import ImageData, Items
from utils.errors import UsageError
from utils.text import counted


class ArrayData(ImageData):
    """Images in memory: uint8 arrays and integer labels.

    `mean` and `std` are computed from the training images, unless a subclass sets them. Small square images
    are not cropped: `image_size` is their side, `min_crop` 1.

    Args:
        images: (N, H, W) or (N, H, W, C) uint8, C = 1 or 3; those for training, or all.
        labels: N integers in [0, number of classes).
        val_images, val_labels: the validation part; None: `split` takes a fraction of `images`.
        classes: class names; None: "0", "1", ...
        root: where the arrays come from, for messages.
        name: of the set, for messages; None: the name of the class.
        transforms, train: as in `ImageData`.

    Raises:
        UsageError: the arrays have another type or shape, or the labels do not match them.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Sequence[int],
        val_images: np.ndarray | None = None,
        val_labels: Sequence[int] | None = None,
        *,
        classes: Sequence[str] | None = None,
        root: str | Path = ".",
        name: str | None = None,
        transforms: Callable[..., Any] | None = None,
        train: bool | None = None,
    ) -> None:
        self.root, self._name = Path(root), name
        parts = {"train": (images, labels)}
        if val_images is not None and val_labels is not None:
            parts["val"] = (val_images, val_labels)
        self.arrays = {part: self._checked(*pair) for part, pair in parts.items()}
        sizes = {part: [int(label) for label in pair[1]] for part, pair in parts.items()}
        self.classes, self.items, self.val_items = virtual_items(self.root, self.name, sizes, classes)
        first = self.arrays["train"]
        self.channels = first.shape[3]
        if type(self).mean is ImageData.mean or len(self.mean) != self.channels:
            self.mean, self.std = statistics(first)
        side = small_square([(array.shape[2], array.shape[1]) for array in self.arrays.values()])
        if side and type(self).image_size is ImageData.image_size:
            self.image_size, self.min_crop = side, 1.0
        self._select(transforms, train)

    @property
    def name(self) -> str:
        return self._name or type(self).__name__

    def load(self, path: Path) -> Image.Image:
        image = self.arrays[path.parent.name][int(path.name)]
        return Image.fromarray(image[..., 0] if self.channels == 1 else image)

    def pixels(self, items: Items) -> np.ndarray:
        places = [(path.parent.name, int(path.name)) for path, _ in items]
        if len(parts := {part for part, _ in places}) > 1:
            return np.stack([self.arrays[part][index] for part, index in places])
        return self.arrays[parts.pop()][[index for _, index in places]]

    def left_out(self) -> list[Path]:
        return []

    def fingerprint(self, items: Items) -> str:
        """A SHA-256 of the pixels and the labels."""
        sha = hashlib.sha256(np.array([label for _, label in items]).tobytes())
        sha.update(np.ascontiguousarray(self.pixels(items)).data)
        return sha.hexdigest()

    def _checked(self, images: np.ndarray, labels: Sequence[int]) -> np.ndarray:
        """The images as (N, H, W, C)."""
        pixels = images[..., None] if images.ndim == 3 else images
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
            got = f"{images.dtype} {images.shape}"
            raise UsageError(f"images of {self.name}: expected uint8 (N, H, W) or (N, H, W, 3), got {got}")
        if len(labels) != len(pixels):
            found = f"{counted(len(pixels), 'image')} and {counted(len(labels), 'label')}"
            raise UsageError(f"{self.name} has {found}: give one for each image")
        return pixels


def virtual_items(
    root: Path, name: str, labels: dict[str, list[int]], classes: Sequence[str] | None
) -> tuple[list[str], Items, Items]:
    """Returns (classes, items, validation items) of a set without files; a path is root/name/part/index.

    Args:
        labels: of the parts "train" and, if the set defines one, "val".
        classes: class names; None: "0", "1", ...

    Raises:
        UsageError: a label without a class, or a class with fewer than two images to split.
    """
    if not labels["train"]:
        raise UsageError(f"{name} has no images")
    top = max(max(part, default=0) for part in labels.values())
    low = min(min(part, default=0) for part in labels.values())
    names = [str(k) for k in range(top + 1)] if classes is None else [str(c) for c in classes]
    if low < 0 or top >= len(names):
        wrong = low if low < 0 else top
        raise UsageError(f"{name} has the label {wrong}: expected 0 to {len(names) - 1}, one for each class")
    items = {
        part: [(root / name / part / f"{i:06d}", label) for i, label in enumerate(values)]
        for part, values in labels.items()
    }
    if "val" not in labels:
        count = np.bincount(labels["train"], minlength=len(names))
        if len(names) < 2 or count.min() < 2:
            found = f"{count.min()} of {names[int(count.argmin())]}, {counted(len(names), 'class', 'classes')}"
            raise UsageError(f"{name} cannot be split: expected two classes or more, two images in each; found {found}")
    return names, items["train"], items.get("val", [])


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, H, W, C) uint8, in [0, 1]."""
    levels, means, stds = np.arange(256) / 255, [], []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].reshape(-1), minlength=256) / images[..., channel].size
        mean = float(share @ levels)
        means.append(round(mean, 4))
        stds.append(round(max(float(share @ (levels - mean) ** 2) ** 0.5, 1 / 255), 4))
    return tuple(means), tuple(stds)
