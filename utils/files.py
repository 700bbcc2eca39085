"""Files are written whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from utils.errors import RunError, UsageError, escaped

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}  # full, over quota or `ulimit -f`, broken
PART = ".part"  # how the names of temporary files end


def printable(path: str | Path) -> str:
    """The path in one line that every terminal can show: what cannot be printed is escaped."""
    return escaped(str(path))


def path_problem(path: str | Path) -> str:
    """Why the system cannot even say whether there is such a file: a name too long, no access, ...; "" where it can."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as e:
        return os.strerror(e.errno) if e.errno else str(e)
    except ValueError:
        return "it holds a character that no path can hold"
    return ""


def user_path(text: str | Path) -> Path:
    """What the user typed as a path, with `~` expanded.

    Raises:
        UsageError: the system takes no such path.
    """
    path = os.path.expanduser(text)  # leaves a `~name` of no user alone, where pathlib's raises
    if problem := path_problem(path):
        raise UsageError(f"{path}: {problem}")
    return Path(path)


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path` that takes its place, synced to disk, once the block ends well.

    Where the block raises, or the process dies, `path` stays as it was. Text is UTF-8 with plain newlines.
    A link is followed; what is no regular file (/dev/null, /dev/stdout) is written to, not replaced.

    Raises:
        RunError: the disk is full.
    """
    path = Path(os.path.realpath(path))
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    if path.exists() and not path.is_file():
        with path.open(mode, **text) as file:
            yield file
        return
    with disk_errors_as_failure(path):
        handle, temp = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        try:
            with os.fdopen(handle, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temp, 0o666 & ~umask())  # mkstemp makes files that only the owner can read
            os.replace(temp, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temp)
            raise
    _sync_folder(path.parent)


@contextmanager
def disk_errors_as_failure(path: Path) -> Iterator[None]:
    """Turns the errors of a full or broken disk into a RunError that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # torch.save hides the OSError in its context
        cause = e if isinstance(e, OSError) else e.__context__
        if not isinstance(cause, OSError) or cause.errno not in DISK:
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        limit = "; see `ulimit -f`" if cause.errno == errno.EFBIG else ""
        raise RunError(f"{path} cannot be written: {cause.strerror} ({free:.1f} MiB free there{limit})") from e


def remove_parts(folder: Path) -> None:
    """Removes the temporary files of a process that was killed while it wrote into `folder`."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


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
    if place.is_dir():
        try:
            tempfile.TemporaryFile(dir=place).close()  # only this tells of /proc, and of what root may not
        except OSError as e:
            if e.errno in DISK:
                raise RunError(f"{flag}={path} cannot be written: {e.strerror}") from e
            raise UsageError(f"{flag}={path} cannot be written ({e.strerror}): give another place") from e


def umask() -> int:
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
