"""The images that `test` labels."""

from pathlib import Path

from data.image_data import is_image
from utils.errors import UsageError


def find(root: str | Path) -> list[tuple[str, Path]]:
    """The images of a folder (sub-folders too), or one image file, as (id, path) sorted by id.

    An id is the file's number where its name is one, else its path below `root`. Numbers come first, in order.

    Raises:
        UsageError: there is no such file or folder, or no image in it.
    """
    root = Path(root)
    if root.is_file():
        paths, folder = [root], root.parent
    elif root.is_dir():
        paths, folder = [p for p in root.rglob("*") if is_image(p) and p.is_file()], root
    else:
        raise UsageError(f"no folder or image {root}: give what to label as --test-data-root=DIR or FILE")
    if not paths:
        raise UsageError(f"{root} holds no images: give what to label as --test-data-root=DIR or FILE")
    numbers = [p.stem for p in paths if _is_number(p, folder)]
    unique = len({int(n) for n in numbers}) == len(numbers)  # 1.jpg beside 1.png: their names tell them apart
    ids = [(0, int(p.stem), "", p) if unique and _is_number(p, folder) else (1, 0, _name(p, folder), p) for p in paths]
    return [(name or str(number), path) for _, number, name, path in sorted(ids)]


def _is_number(path: Path, folder: Path) -> bool:
    return path.parent == folder and path.stem.isascii() and path.stem.isdigit()


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
