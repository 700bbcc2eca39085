"""Images to label, wherever they are, one after the other: folders of any size, files, patterns, archives, names."""

import functools
import glob
import io
import os
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from data.listing import counted_endings, ending, files_below, in_sorted_blocks, is_image, named_as_image
from utils.errors import UsageError
from utils.text import counted, printable

STDIN = "-"
LOOK, SETTLED = 1.0, 1.0  # seconds between two looks at a watched folder; for which a file of it has not changed


@dataclass(frozen=True)
class Source:
    """An image: a file, or a member of a zip archive.

    It is read as a path is, see data/reading.py.

    Attributes:
        name: what it is called in results. path: the file, or the archive. below: its path below what was named.
    """

    name: str
    path: Path
    below: PurePosixPath
    member: str | None = None

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str = "rb") -> IO[bytes]:
        return self.path.open("rb") if self.member is None else io.BytesIO(self.read_bytes())

    def read_bytes(self) -> bytes:
        return self.path.read_bytes() if self.member is None else _archive(self.path, os.getpid()).read(self.member)


@functools.lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """Opened once by each process: they would share the place in the file."""
    return zipfile.ZipFile(path)


class Sources:
    """Iterates over images, each once for each word that means it; none but those under way are in memory.

    Args:
        words: folders, with all below them, sorted in blocks; files; patterns such as `photos/**/*.jpg`; zip archives;
            `-`: names from standard input, a line each.
        without: a folder that is left out.
        watch: never end, and give new files of folders as they arrive; None where all that is there has been given.

    Raises:
        UsageError: no word, or one that means nothing.
    """

    def __init__(self, words: Sequence[str | os.PathLike], without: Path | None = None, watch: bool = False) -> None:
        self.words, self.watch = [os.path.expanduser(word) for word in words], watch
        self.without = Path(os.path.abspath(without)) if without else None
        self.others: Counter[str] = Counter()
        self.example = ""
        if not words:
            raise UsageError("name images: folders, files, patterns, zip archives, or - for names on standard input")
        for word in self.words:
            if watch and not os.path.isdir(word):
                raise UsageError(f"--watch-folder takes folders: {word} is none")
            if word != STDIN and not os.path.exists(word) and next(glob.iglob(word, recursive=True), None) is None:
                raise UsageError(f"there is no file or folder {word}: name folders, files, patterns or zip archives")
            if os.path.isfile(word) and word.lower().endswith(".zip") and not zipfile.is_zipfile(word):
                raise UsageError(f"{word} is damaged, or no zip archive")

    @property
    def may_wait(self) -> bool:
        """Whether somebody else decides when the next one comes."""
        return self.watch or STDIN in self.words

    def __iter__(self) -> Iterator[Source | None]:
        seen: set[str] = set()
        while self.watch:
            for source in self._once():
                if source.name not in seen and _is_whole(source.path):
                    seen.add(source.name)
                    yield source
            yield None
            time.sleep(LOOK)
        yield from self._once()

    def _once(self) -> Iterator[Source]:
        self.others.clear()
        for word in self.words:
            if word == STDIN:
                names = (line.rstrip("\r\n") for line in sys.stdin)
                yield from (Source(name, Path(name), _below(name)) for name in names if name.strip())
            elif os.path.exists(word):
                yield from self._of(Path(word))
            else:
                for path in in_sorted_blocks(glob.iglob(word, recursive=True)):
                    if os.path.isfile(path):
                        yield from self._of(Path(path), named=False)

    def _of(self, path: Path, named: bool = True) -> Iterator[Source]:
        if path.is_dir():
            for file in files_below(path):
                if self.without in Path(os.path.abspath(file)).parents:
                    continue
                if self._counts(file, is_image(file)):
                    yield Source(str(file), file, PurePosixPath(file.relative_to(path).as_posix()))
        elif path.suffix.lower() == ".zip":
            for info in _archive(path, os.getpid()).infolist():
                if not info.is_dir() and self._counts(Path(info.filename), named_as_image(Path(info.filename))):
                    yield Source(f"{path}/{info.filename}", path, _below(info.filename), info.filename)
        elif named or self._counts(path, is_image(path)):
            yield Source(str(path), path, _below(path.name))

    def _counts(self, path: Path, known: bool) -> bool:
        """Returns `known`, whether it is an image; remembers those that are not."""
        if not known and not path.name.startswith("."):
            self.others[ending(path)] += 1
            self.example = self.example or printable(path)
        return known

    def left_out(self) -> str:
        """A line on the files that are no images; "" where there are none."""
        count = self.others.total()
        if not count:
            return ""
        return f"{counted(count, 'file')} left out as no images: {counted_endings(self.others)}, as {self.example}"


def _is_whole(path: Path) -> bool:
    """Whether nobody writes to it any more, as far as its time tells."""
    with suppress(OSError):  # it is gone again
        return path.stat().st_mtime < time.time() - SETTLED
    return False


def _below(name: str) -> PurePosixPath:
    """The name without what leads out of a folder."""
    parts = [part for part in Path(name).parts if part not in ("..", ".", Path(name).anchor)]
    return PurePosixPath(*parts) if parts else PurePosixPath("image")
