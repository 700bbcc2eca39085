"""Any images sorted into one folder a class."""

from contextlib import suppress
from pathlib import Path

from PIL import Image

from data.image_data import ImageData, Items, first_files, is_image
from utils.errors import UsageError

SMALL = 96  # pixels; squares of up to this side are taken as they are
LOOKED_AT = 20  # images, to see whether all are such squares


class Folder(ImageData):
    """Images sorted into one folder a class: `ROOT/<class>/*.jpg`; classes in alphabetical order.

    The layout of torchvision's ImageFolder. Sub-folders of a class count, files beside the class folders do not.
    Where ROOT holds `train` and `val` (or `valid`, `validation`, `test`), the second is for validation.
    Small squares of one size, such as CIFAR-10's, are seen whole: `image_size` is theirs, `min_crop` 1.
    """

    layout = "one folder a class, with two images or more in each"
    val_names = ("val", "valid", "validation", "test")

    @classmethod
    def matches(cls, root: Path) -> bool:
        folders = [path for path in first_files(root) if path.is_dir()]
        return sum(any(map(is_image, first_files(folder))) for folder in folders) > 1

    def scan(self, root: Path) -> tuple[list[str], Items]:
        classes, items = self._in_parts(root)
        if side := small_square(items):
            self.image_size, self.min_crop = side, 1.0
        return classes, items

    def _in_parts(self, root: Path) -> tuple[list[str], Items]:
        """Classes and items of what is for training; sets `val_items` where there are two parts."""
        val_items = next((root / name for name in self.val_names if (root / name).is_dir()), None)
        if val_items is None or not (root / "train").is_dir() or self.matches(root):
            return self._sorted(root)
        classes, items = self._sorted(root / "train")
        others, self.val_items = self._sorted(val_items)
        if others != classes:
            raise UsageError(f"{val_items} has the classes {others}, and {root / 'train'} has {classes}")
        return classes, items

    @staticmethod
    def _sorted(root: Path) -> tuple[list[str], Items]:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        files = {folder.name: sorted(p for p in folder.rglob("*") if is_image(p) and p.is_file()) for folder in folders}
        classes = [name for name, paths in files.items() if paths]
        return classes, [(path, label) for label, name in enumerate(classes) for path in files[name]]


def small_square(items: Items) -> int | None:
    """The side in pixels that all images have, as far as a few from all over the set tell; None: they differ."""
    sizes = set()
    for path, _ in items[:: max(len(items) // LOOKED_AT, 1)]:
        with suppress(Exception), Image.open(path) as image:  # one that cannot be read is told of later
            sizes.add(image.size)
    width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
    return width if width == height and 8 <= width <= SMALL else None
