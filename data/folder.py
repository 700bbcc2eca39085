"""Images sorted into one folder for each class."""

import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from data.image_data import ImageData, Items, first_files, is_image
from data.listing import NO_IMAGES, endings, folders_in, list_images
from utils.errors import UsageError
from utils.text import counted, few, printable

SMALL = 96  # pixels; square images up to this side are used as they are
SAMPLED = 20  # images whose size is read
PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
FILLERS = {"set", "data", "dataset", "image", "images", "split", "part"}  # as in training_set, test-images


def part_of(name: str) -> str | None:
    """ "train", "val" or "test" where a folder's name says so, as `Training`, `test_set`, `test1`; else None."""
    words = [word.removesuffix("set") or word for word in re.split(r"[\W_\d]+", name.lower()) if word]
    words = [word for word in words if word not in FILLERS]
    return PARTS.get(words[0]) if len(words) == 1 else None


@dataclass
class Content:
    """The images below a folder, and the files there that are none; both sorted."""

    folder: Path
    images: list[Path]
    others: list[Path]

    @cached_property
    def classes(self) -> dict[str, list[Path]]:
        """The images by the sub-folder that they are in or below; those beside the sub-folders are in none."""
        return _by_subfolder(self.folder, self.images)

    @property
    def name(self) -> str:
        return printable(self.folder.name)


class Folder(ImageData):
    """Images sorted into one folder for each class: `ROOT/<class>/*.jpg`; classes in alphabetical order.

    The layout of torchvision's ImageFolder. Sub-folders of a class are read too; files beside the class
    folders are not. If ROOT holds the parts `train` and `val` (or another name of them, as `Training`,
    `validation_set`, `test`), the second is used for validation. Small squares of one size, such as
    CIFAR-10's, are not cropped: `image_size` is their side, `min_crop` 1.
    """

    layout = "one folder for each class, with two images or more in each"

    @classmethod
    def matches(cls, root: Path) -> bool:
        folders = [path for path in first_files(root) if path.is_dir()]
        if sum(any(map(is_image, first_files(folder))) for folder in folders) > 1:
            return True
        return any(part_of(folder.name) == "train" and cls.matches(folder) for folder in folders)

    def scan(self, root: Path) -> tuple[list[str], Items]:
        contents = [Content(folder, *list_images(folder)) for folder in folders_in(root)]
        classes, items = self._read(root, contents)
        if side := small_square(_sizes([path for path, _ in items])):
            self.image_size, self.min_crop = side, 1.0
        return classes, items

    def _read(self, root: Path, contents: list[Content]) -> tuple[list[str], Items]:
        """Classes and items for training; sets `val_items` and `test_items` if there are such parts."""
        found = [content for content in contents if content.images]
        parts = {content.folder: part_of(content.folder.name) for content in found}
        train, val, test = (
            [content for content in found if parts[content.folder] == part and content.classes]
            for part in ("train", "val", "test")
        )
        for some in (train, val, test):
            if len(some) > 1:
                names = " and ".join(content.name for content in some)
                raise UsageError(f"{root}: {names} may be the same part of the set: keep one of them there")
        others = [content for content in found if not parts[content.folder]]
        if train and (val or test or not others):
            return self._read_parts(root, train[0], val, test)
        if found and not others:
            names = ", ".join(content.name for content in found)
            raise UsageError(
                f"{root} holds {names}, which are parts of a set, and no class folders to learn from: expected "
                f"{root / 'train'}/<class>/*.jpg"
            )
        if train or self._alike(found):
            self._refuse(root, train or found, found)
        return read_classes(contents)

    def _read_parts(
        self, root: Path, train: Content, val: list[Content], test: list[Content]
    ) -> tuple[list[str], Items]:
        classes, items = read_classes(class_contents(train))
        read = {}
        for content in val + test:
            theirs, read[content.name] = read_classes(class_contents(content))
            if theirs != classes:
                raise UsageError(f"{content.folder} has the classes {theirs}, and {train.folder} has {classes}")
        self.val_items = read[val[0].name] if val else read[test[0].name] if test else []
        self.test_items = read[test[0].name] if test else []
        told = [f"{counted(len(items), 'image')} in {train.name} for training"]
        told += [f"{len(self.val_items)} in {content.name} for validation" for content in (val or test)[:1]]
        told += [f"{len(self.test_items)} in {content.name} for `val --split=test`" for content in test if val]
        self.notes = [f"{self.name} in {root}: {', '.join(told)}"]
        return classes, items

    @staticmethod
    def _alike(found: list[Content]) -> bool:
        """Whether all folders hold mostly the same sub-folders, as the parts of a set do."""
        sets = [set(content.classes) for content in found]
        common = set.intersection(*sets) if len(sets) > 1 else set()
        return len(common) > 1 and 2 * len(common) >= len(set.union(*sets))

    @staticmethod
    def _refuse(root: Path, parts: list[Content], found: list[Content]) -> None:
        """Raises the UsageError for folders that may be parts of a set, or classes."""
        one = parts[0]
        names = few(map(printable, one.classes))
        as_parts = f"parts of a set with the classes {names}: type --train-data-root={one.folder}"
        beside = f" (or name them {root / 'train'} and {root / 'val'})" if len(parts) > 1 else ""
        as_classes = f"classes, {few(content.name for content in found)}: type --dataset=ClassFolder"
        raise UsageError(
            f"{root} can be read in two ways. The folders are {as_parts}{beside}; or they are {as_classes}"
        )


class ClassFolder(Folder):
    """As Folder, for classes whose folders have names or sub-folders like the parts of a set.

    The folders of ROOT are the classes whatever they hold, as `train` beside `bus` and `tram`.
    """

    @classmethod
    def matches(cls, root: Path) -> bool:
        return False  # Folder is the hint

    def _read(self, root: Path, contents: list[Content]) -> tuple[list[str], Items]:
        return read_classes(contents)


def class_contents(part: Content) -> list[Content]:
    """The class folders of a part."""
    others = _by_subfolder(part.folder, part.others)
    names = sorted(part.classes.keys() | others.keys())
    return [Content(part.folder / name, part.classes.get(name, []), others.get(name, [])) for name in names]


def _by_subfolder(folder: Path, paths: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        name, *rest = path.relative_to(folder).parts
        if rest:
            found.setdefault(name, []).append(path)
    return found


def read_classes(contents: list[Content]) -> tuple[list[str], Items]:
    """Classes and items of class folders; those without files are no classes.

    Raises:
        UsageError: a folder's files are none that Pillow reads, or two names are the same text.
    """
    folders: dict[str, list[Path]] = {}
    for content in contents:
        odd = [path for path in content.others if path.suffix.lower() not in NO_IMAGES]
        if not content.images and odd:
            raise UsageError(
                f"the class folder {printable(content.folder)} has {counted(len(content.others), 'file')} and no image "
                f"that Pillow reads ({endings(content.others)}): convert them, or move the folder away"
            )
        name = printable(unicodedata.normalize("NFC", content.folder.name))
        if content.images and name in folders:
            raise UsageError(
                f"{printable(content.folder.parent)} has two folders {name!r}, whose names differ only in how Unicode "
                "writes them (NFC, NFD): put their images into one"
            )
        if content.images:
            folders[name] = content.images
    classes = sorted(folders)
    return classes, [(path, label) for label, name in enumerate(classes) for path in folders[name]]


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
