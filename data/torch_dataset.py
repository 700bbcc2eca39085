"""Data sets of other programs: anything with `__len__` and `__getitem__` that gives (image, label)."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from data.array_data import ArrayData, virtual_items
from data.convert import as_image, as_label, as_labels, uint8_images
from data.folder import sampled, small_square
from data.image_data import ImageData, Items
from data.reading import rgb_image
from utils.errors import UsageError
from utils.progress import with_progress

LABELS = ("targets", "labels", "_labels", "y", "samples", "_samples")  # where data sets keep their labels
CLASSES = ("classes", "categories", "class_to_idx", "_characters", "all_categories")  # and their class names


class TorchDataset(ImageData):
    """Wraps torch `Dataset`s whose items are (image, label).

    An image may be a PIL image, a uint8 array (H, W) or (H, W, C), a uint8 tensor (C, H, W), a float tensor
    in [0, 1], or the `Path` of an image file. A label may be an int or a tensor of one int. Items are read in
    each epoch, since a Dataset may change them at random.

    Args:
        train_set: the images for training, or all.
        val_set: the validation part; None: `split` takes a fraction of `train_set`.
        classes: class names; None: those of the Dataset, else "0", "1", ...
        root, name, transforms, train: as in `ArrayData`.

    Raises:
        UsageError: the items are not of these types, or the labels do not fit the classes.
    """

    deterministic = False

    def __init__(
        self,
        train_set: Any,
        val_set: Any = None,
        *,
        classes: Sequence[str] | None = None,
        root: str | Path = ".",
        name: str | None = None,
        transforms: Callable[..., Any] | None = None,
        train: bool | None = None,
    ) -> None:
        self.root, self._name = Path(root), name or type(train_set).__name__
        self.parts = {"train": train_set} if val_set is None else {"train": train_set, "val": val_set}
        labels = {part: labels_of(source, self.name) for part, source in self.parts.items()}
        names = classes or common_classes(self.parts, self.name)
        self.classes, self.items, self.val_items = virtual_items(self.root, self.name, labels, names)
        sizes = (rgb_image(self.load(self.items[i][0])).size for i in sampled(len(self.items)))
        if type(self).image_size is ImageData.image_size and (side := small_square(sizes)):
            self.image_size, self.min_crop = side, 1.0
        self._select(transforms, train)

    @property
    def name(self) -> str:
        return self._name

    def load(self, path: Path) -> Path | Image.Image:
        """The image of an item.

        Raises:
            UsageError: it cannot be read, or is of another type.
        """
        part, index = path.parent.name, int(path.name)
        where = f"image {index} of {self.name}"
        try:
            image = as_image(self.parts[part][index][0], where)
            if isinstance(image, Image.Image):
                image.load()
        except OSError as e:
            raise UsageError(f"{where} cannot be read: {e}") from e
        return image

    def left_out(self) -> list[Path]:
        return []

    def fingerprint(self, items: Items) -> str:
        """A SHA-256 of the positions and the labels; the images may change at random."""
        lines = (f"{path.relative_to(self.root).as_posix()} {label}" for path, label in items)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def wrap(train: Any, val: Any, root: str | Path, name: str) -> ImageData:
    """An `ArrayData` if the sets hold arrays that they give unchanged, else a `TorchDataset`.

    Raises:
        UsageError: the items are of another type.
    """
    parts = [train] if val is None else [train, val]
    arrays = [images for part in parts if (images := arrays_of(part, name)) is not None]
    if len(arrays) < len(parts):
        return TorchDataset(train, val, root=root, name=name)
    labels = [labels_of(part, name) for part in parts]
    classes = common_classes(dict(zip(("train", "val"), parts, strict=False)), name)
    val_pair = (arrays[1], labels[1]) if val is not None else (None, None)
    return ArrayData(arrays[0], labels[0], *val_pair, classes=classes, root=root, name=name)


def arrays_of(source: Any, name: str) -> np.ndarray | None:
    """(N, H, W, C) uint8 of a Dataset that gives its arrays unchanged, else None."""
    if isinstance(source, TensorDataset) and len(source.tensors) == 2:
        return uint8_images(source.tensors[0], f"images of {name}")
    values = getattr(source, "data", None)
    if not isinstance(values, np.ndarray | torch.Tensor) or len(values) != len(source) or not len(values):
        return None
    if str(values.dtype).removeprefix("torch.") != "uint8" or values.ndim not in (3, 4):
        return None
    images = uint8_images(values, f"images of {name}")
    for index in (0, len(images) - 1):  # a transform, or a set that does more than to look up its arrays
        item = as_image(source[index][0], f"image {index} of {name}")
        if isinstance(item, Path) or not np.array_equal(np.asarray(item), images[index].squeeze()):
            return None
    return images


def labels_of(source: Any, name: str) -> list[int]:
    """The labels of a Dataset: an attribute of LABELS if it agrees with the items, else all items are read.

    Raises:
        UsageError: an item is no (image, label), or its label no integer.
    """
    if isinstance(source, TensorDataset) and len(source.tensors) == 2:
        return [as_label(label, i, name) for i, label in enumerate(source.tensors[1])]
    ends = [0, len(source) - 1] if len(source) else []
    expected = [as_label(_pair(source, i, name)[1], i, name) for i in ends]
    for attribute in LABELS:
        values = getattr(source, attribute, None)
        with suppress(TypeError):  # it has no length
            if values is not None and len(values) == len(source):
                labels = as_labels(values)
                if labels is not None and [labels[i] for i in ends] == expected:
                    return labels
    items = with_progress(([i] for i in range(len(source))), f"labels of {name}", len(source))
    return [as_label(_pair(source, i, name)[1], i, name) for [i] in items]


def _pair(source: Any, index: int, name: str) -> Sequence[Any]:
    item = source[index]
    if not isinstance(item, tuple | list) or len(item) != 2:
        got = f"{len(item)} values" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
        raise UsageError(f"item {index} of {name} is {got}: expected (image, label)")
    return item


def common_classes(parts: dict[str, Any], name: str) -> list[str] | None:
    """The class names of a Dataset; None if it has none.

    Raises:
        UsageError: training and validation part have different classes.
    """
    found = {part: classes_of(source) for part, source in parts.items()}
    if "val" in found and found["val"] != found["train"]:
        raise UsageError(f"{name}: the validation part has the classes {found['val']}, training {found['train']}")
    return found["train"]


def classes_of(source: Any) -> list[str] | None:
    for attribute in CLASSES:
        values = getattr(source, attribute, None)
        if isinstance(values, dict):
            values = sorted(values, key=values.__getitem__)
        if isinstance(values, list | tuple) and values:
            return [", ".join(value) if isinstance(value, tuple) else str(value) for value in values]
    return None
