"""Images sorted into one folder for each class."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from PIL import Image

from data.image_data import ImageData, Items, first_files, image_files, is_image
from utils.errors import UsageError

SMALL = 96  # pixels; square images up to this side are used as they are
SAMPLED = 20  # images whose size is read


class Folder(ImageData):
    """Images sorted into one folder for each class: `ROOT/<class>/*.jpg`; classes in alphabetical order.

    The layout of torchvision's ImageFolder. Sub-folders of a class are read too; files beside the class
    folders are not. If ROOT holds `train` and `val` (or `valid`, `validation`, `test`), the second is used
    for validation. Small squares of one size, such as CIFAR-10's, are not cropped: `image_size` is their
    side, `min_crop` 1.
    """

    layout = "one folder for each class, with two images or more in each"
    val_names = ("val", "valid", "validation", "test")

    @classmethod
    def matches(cls, root: Path) -> bool:
        folders = [path for path in first_files(root) if path.is_dir()]
        return sum(any(map(is_image, first_files(folder))) for folder in folders) > 1

    def scan(self, root: Path) -> tuple[list[str], Items]:
        classes, items = self._read_parts(root)
        if side := small_square(_sizes([path for path, _ in items])):
            self.image_size, self.min_crop = side, 1.0
        return classes, items

    def _read_parts(self, root: Path) -> tuple[list[str], Items]:
        """Classes and items for training; sets `val_items` if there are two parts."""
        val_root = next((root / name for name in self.val_names if (root / name).is_dir()), None)
        if val_root is None or not (root / "train").is_dir() or self.matches(root):
            return self._read_classes(root)
        classes, items = self._read_classes(root / "train")
        val_classes, self.val_items = self._read_classes(val_root)
        if val_classes != classes:
            raise UsageError(f"{val_root} has the classes {val_classes}, and {root / 'train'} has {classes}")
        val = f"{len(self.val_items)} in {val_root.name} for validation"
        self.notes = [f"{self.name} in {root}: {len(items)} images in train for training, {val}"]
        return classes, items

    @staticmethod
    def _read_classes(root: Path) -> tuple[list[str], Items]:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        files = {folder.name: image_files(folder) for folder in folders}
        classes = [name for name, paths in files.items() if paths]
        return classes, [(path, label) for label, name in enumerate(classes) for path in files[name]]


def sampled(count: int) -> range:
    """Up to about SAMPLED indices, spread over `count` images."""
    return range(0, count, max(count // SAMPLED, 1))


def small_square(sizes: Iterable[tuple[int, int]]) -> int | None:
    """The side if all sizes are the same square of 8 to SMALL pixels, else None."""
    found = set(sizes)
    width, height = found.pop() if len(found) == 1 else (0, 1)
    return width if width == height and 8 <= width <= SMALL else None


def _sizes(paths: list[Path]) -> Iterable[tuple[int, int]]:
    for index in sampled(len(paths)):
        with suppress(Exception), Image.open(paths[index]) as image:  # unreadable ones are reported later
            yield image.size
