"""Lists the files of a folder: which of them are images, and the ids of images without labels."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from utils.errors import UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image; hidden files never are."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def files_below(root: Path) -> Iterator[Path]:
    """Every file below `root`, in no particular order; skips hidden folders and those that cannot be read."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names)


def image_files(root: Path, recursive: bool = True) -> list[Path]:
    """The image files in `root`, and if `recursive` in its sub-folders that are not hidden; sorted."""
    paths = files_below(root) if recursive else root.iterdir()
    return sorted(path for path in paths if is_image(path) and path.is_file())


def first_files(folder: Path, count: int = 100) -> list[Path]:
    """Some entries of a folder, however large it is; none if it cannot be read."""
    with suppress(OSError):
        return list(itertools.islice(folder.iterdir(), count))
    return []


def find_unlabelled(root: str | Path) -> list[tuple[str, Path]]:
    """The images of a folder and its sub-folders, or one image file, as (id, path) sorted by id.

    The id of `<number>.jpg` is the number, any other id is the path below `root`. Numbers come first, in
    order.

    Raises:
        UsageError: there is no such file or folder, or it holds no image.
    """
    root = Path(root)
    if root.is_file():
        paths, folder = [root], root.parent
    elif root.is_dir():
        paths, folder = image_files(root), root
    else:
        raise UsageError(f"no folder or image {root}: give the images to label as --test-data-root=DIR or FILE")
    if not paths:
        raise UsageError(f"{root} holds no images: give the images to label as --test-data-root=DIR or FILE")
    count = Counter(int(path.stem) for path in paths if _is_number(path, folder))
    unique = {path for path in paths if _is_number(path, folder) and count[int(path.stem)] == 1}  # not 1.jpg and 1.png
    numbered = sorted((int(path.stem), path) for path in unique)
    named = sorted((path.relative_to(folder).as_posix(), path) for path in paths if path not in unique)
    return [(str(number), path) for number, path in numbered] + named


def _is_number(path: Path, folder: Path) -> bool:
    return path.parent == folder and path.stem.isascii() and path.stem.isdigit()
