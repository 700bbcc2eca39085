"""Lists the files of a folder: which of them are images, and the ids of images without labels."""

import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import UsageError
from utils.text import printable

# made by systems, not by users
JUNK = {"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
IDENTIFIED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow recognizes and does not read itself
# endings that are not worth opening the file for
NO_IMAGES = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst", ".html", ".htm", ".log"),
    *(".py", ".ipynb", ".sh", ".ini", ".db", ".pdf", ".doc", ".docx", ".xls", ".xlsx"),
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"),
    *(".npy", ".npz", ".pkl", ".mat", ".pt", ".pth", ".h5", ".hdf5", ".mp3", ".mp4", ".avi", ".mov", ".wav"),
}
OF_A_RUN = {"config.yaml", "metrics.jsonl"}  # a run folder's pictures are no images to learn from
NAMED = 5  # endings in a line
T = TypeVar("T")
BLOCK = 10_000  # entries of a folder that are in memory at a time


def files_below(root: Path, recursive: bool = True) -> Iterator[Path]:
    """Every file in `root`, and if `recursive` below it, in no particular order; links are followed, once.

    Hidden files and folders, those that systems make (JUNK), and run folders of this program are left out; pipes,
    devices and links that lead nowhere too.

    Raises:
        UsageError: a folder cannot be read.
    """
    pending, seen = [root], {_identity(root)}
    while pending:
        for entry in _visible(pending.pop(0)):
            path = Path(entry.path)
            if not _is_folder(entry):
                if _is_file(entry):
                    yield path
            elif recursive and (identity := _identity(path)) not in seen:  # a link may lead back, or there twice
                seen.add(identity)
                pending.append(path)


def folders_in(root: Path) -> list[Path]:
    """The sub-folders of `root`, sorted; without hidden ones, and those that systems make.

    Raises:
        UsageError: the folder cannot be read.
    """
    return sorted(Path(entry.path) for entry in _visible(root) if _is_folder(entry))


def list_images(root: Path, recursive: bool = True) -> tuple[list[Path], list[Path]]:
    """(images, other files) in `root`, and if `recursive` below it; sorted."""
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(files_below(root, recursive)):
        (images if is_image(path) else others).append(path)
    return images, others


def image_files(root: Path, recursive: bool = True) -> list[Path]:
    """The images in `root`, and if `recursive` below it; sorted."""
    return list_images(root, recursive)[0]


def is_image(path: Path) -> bool:
    """Whether Pillow reads such files: by the ending, and where that is none of an image by the first bytes.

    Hidden files never are.
    """
    suffix = path.suffix.lower()
    if path.name.startswith(".") or suffix in NO_IMAGES:
        return False
    return suffix in suffixes() or _opens(path)


def named_as_image(path: Path) -> bool:
    """Whether it is an image by its ending, of which Pillow reads the format. Hidden files never are."""
    return not path.name.startswith(".") and path.suffix.lower() in suffixes()


@functools.cache
def suffixes() -> frozenset[str]:
    """The endings of the formats that Pillow reads."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in IDENTIFIED)


def _opens(path: Path) -> bool:
    from PIL import Image

    with suppress(Exception):  # Pillow raises all sorts of errors
        if path.stat().st_size:  # the files of /proc have none
            with Image.open(path) as image:
                return image.format not in IDENTIFIED
    return False


def first_files(folder: Path, count: int = 100) -> list[Path]:
    """Some entries of a folder, however large it is; none if it cannot be read."""
    with suppress(OSError):
        return list(itertools.islice(folder.iterdir(), count))
    return []


def ending(path: Path) -> str:
    """As it is shown: `.txt`."""
    return printable(path.suffix.lower()) or "without an ending"


def endings(paths: Iterable[Path]) -> str:
    """How many files of which ending: `.txt 30, .heic 7`."""
    return counted_endings(Counter(map(ending, paths)))


def counted_endings(counts: Counter[str]) -> str:
    """The same of files that have been counted by their endings."""
    count = counts.most_common()
    more = [f"{len(count) - NAMED} other endings"] if len(count) > NAMED else []
    return ", ".join([*(f"{suffix} {number}" for suffix, number in count[:NAMED]), *more])


def find_unlabelled(
    root: str | Path, wanted: str = "the images to label as --test-data-root=DIR or FILE"
) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The images of a folder and its sub-folders, or one image file.

    The id of `0001.jpg` is 0001, any other id is the path below the folder; of two images `1.jpg` and `1.png`
    too. If all images lie in one sub-folder, that is the folder. The order is that of the numbers in the ids.

    Args:
        wanted: what is to be given, and how, for errors.

    Returns:
        [(id, path)], and the files that are no images.

    Raises:
        UsageError: there is no such file or folder, it cannot be read, or it holds no image.
    """
    root, others = Path(root), list[Path]()
    if os.path.isdir(root):
        paths, others = list_images(root)
    elif os.path.isfile(root):
        paths = [root]
    else:
        raise UsageError(f"no folder or image {root}: give {wanted}")
    if not paths:
        found = f"; it holds {endings(others)}" if others else ""
        raise UsageError(f"{root} holds no images{found}: give {wanted}")
    parents = {path.parent for path in paths}
    folder = parents.pop() if len(parents) == 1 else root
    count = Counter(path.stem for path in paths if _is_number(path, folder))
    numbers = [_is_number(path, folder) and count[path.stem] == 1 for path in paths]
    ids = [p.stem if number else p.relative_to(folder).as_posix() for p, number in zip(paths, numbers, strict=True)]
    return sorted(zip(ids, paths, strict=True), key=lambda pair: (_natural(pair[0]), pair)), others


def find_each(
    words: Sequence[str | os.PathLike], command: str, without: Path | None = None
) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The images of files and folders, each once, in the order of the words; in a folder in that of `find_unlabelled`.

    Args:
        command: for errors. without: a folder whose images are left out, as that of what is to be written.

    Returns:
        [(its path below the folder that holds all of them, path)], and the files that are no images.

    Raises:
        UsageError: none is named, there is no such file or folder, it cannot be read, or it holds no image.
    """
    if not words:
        raise UsageError(f"{command} needs images, files or folders: type {command} --load-path=RUN DIR")
    paths: list[Path] = []
    others: list[Path] = []
    for word in words:
        found, left = find_unlabelled(os.path.expanduser(word), f"images, files or folders, after {command}")
        paths += [Path(os.path.abspath(path)) for _, path in found]
        others += left
    own = Path(os.path.abspath(without)) if without else None
    paths = [path for path in dict.fromkeys(paths) if own not in path.parents]
    if not paths:
        raise UsageError(f"{without} is what {command} writes: name images that lie elsewhere")
    root = os.path.commonpath([path.parent for path in paths])
    return [(path.relative_to(root).as_posix(), path) for path in paths], others


def _is_number(path: Path, folder: Path) -> bool:
    return path.parent == folder and path.stem.isascii() and path.stem.isdigit()


def _natural(text: str) -> list[tuple[int, int | str]]:
    """A sort key by which `2` comes before `10`, and numbers before words."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def _visible(folder: Path) -> Iterator[os.DirEntry]:
    """The entries of a folder, a folder itself before links to it; sorted, but for folders of very many in blocks."""
    try:
        if all(os.path.exists(folder / name) for name in OF_A_RUN):
            return
        with os.scandir(folder) as entries:
            seen = (entry for entry in entries if not entry.name.startswith(".") and entry.name not in JUNK)
            yield from in_sorted_blocks(seen, lambda entry: (entry.is_symlink(), entry.name))
    except OSError as e:
        raise UsageError(f"{folder} cannot be read: {e.strerror}") from e


def in_sorted_blocks(found: Iterable[T], key: Callable[[T], Any] | None = None) -> Iterator[T]:
    """Sorted where there are up to BLOCK; of more as many at a time, so that there may be any number."""
    found = iter(found)
    while block := list(itertools.islice(found, BLOCK)):
        yield from sorted(block, key=key)  # type: ignore[type-var,arg-type]


def _is_folder(entry: os.DirEntry) -> bool:
    with suppress(OSError):  # a link that leads to itself
        return entry.is_dir()
    return False


def _is_file(entry: os.DirEntry) -> bool:
    with suppress(OSError):
        return entry.is_file()
    return False


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
