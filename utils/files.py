"""Files are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.errors import UsageError


@contextmanager
def whole(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path` that takes its place, synced to disk, once the block ends well.

    Where the block raises, or the process dies, `path` stays as it was. Text is UTF-8 with plain newlines.
    A link is followed; what is no regular file (/dev/null, /dev/stdout) is written to, not replaced.
    """
    path = Path(os.path.realpath(path))
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    if path.exists() and not path.is_file():
        with path.open(mode, **text) as file:
            yield file
        return
    handle, temp = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temp, 0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        os.replace(temp, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temp)
        raise
    _sync_folder(path.parent)


def check_writable(path: str | Path, flag: str, folder: bool = False) -> None:
    """Raises UsageError where `path`, a file or a folder to be made, cannot be written; `flag` gave it."""
    path = Path(path)
    if path.exists() and path.is_dir() != folder:
        is_one, wanted = ("file", "folder") if folder else ("folder", "file")
        raise UsageError(f"{flag}={path} is a {is_one}: give a {wanted}")
    place = path if path.exists() else path.parent
    while folder and not place.exists():
        place = place.parent
    if not place.exists():
        raise UsageError(f"no folder {place} for {flag}={path}: make it, or give another place")
    if not os.access(place, os.W_OK) or not (place.is_dir() or path.exists()):
        raise UsageError(f"{flag}={path} cannot be written: give another place")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut; file systems that cannot are left alone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
