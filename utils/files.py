"""Files are written whole or not at all."""

import errno
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from utils.errors import RunError, UsageError
from utils.text import printable

if sys.platform != "win32":
    import fcntl

PART = ".part"  # how the names of temporary files end
LOOK = 0.5  # seconds that a look at a lock takes at the very most


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path` that takes its place, synced to disk, once the block ends well.

    Where the block raises, or the process dies, `path` stays as it was. Text is UTF-8 with plain newlines.
    A link is followed; what is no regular file (/dev/null, /dev/stdout) is written to, not replaced.

    Raises:
        RunError: it cannot be written: the disk is full or read-only, the folder is gone, too many files are open.
    """
    device = os.path.exists(path) and not os.path.isfile(path)
    path = Path(path) if device else Path(os.path.realpath(path))
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with disk_errors_as_failure(path):
        if device:
            with path.open(mode, **text) as file:
                yield file
            return
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
    sync_folder(path.parent)


def create(path: Path, text: str) -> bool:
    """Makes a file whole, and only where there is none of that name; returns whether it did.

    Raises:
        RunError: it cannot be written.
    """
    if file := create_locked(path, text):
        file.close()
    return file is not None


def create_locked(path: Path, text: str) -> IO | None:
    """As `create`, but returns the file, open and locked from its first moment; None where there is one already."""
    with disk_errors_as_failure(path), ExitStack() as closed:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
        file = closed.enter_context(part.open("w", encoding="utf-8"))
        try:
            lock(file)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.link(part, path)
        except FileExistsError:
            return None
        finally:
            part.unlink(missing_ok=True)
        closed.pop_all()  # but where all went well
    return file


def lock(file: IO) -> bool:
    """Locks a file that is open for writing until it is closed; False where another process has.

    Where the file system has no locks, True. Closing any other handle of the file in this process unlocks it.
    """
    end = time.monotonic() + LOOK
    while (free := _try_lock(file, exclusive=True)) is False and time.monotonic() < end:
        time.sleep(LOOK / 100)  # another process may be looking, see is_locked
    return free is not False


def is_locked(file: IO) -> bool | None:
    """Whether another process has locked a file that is open for reading; None where the file system has no locks.

    It may be asked by many at a time.
    """
    free = _try_lock(file, exclusive=False)
    if free:
        fcntl.lockf(file, fcntl.LOCK_UN)
    return None if free is None else not free


def _try_lock(file: IO, exclusive: bool) -> bool | None:
    if sys.platform == "win32":
        return None
    try:
        fcntl.lockf(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


@contextmanager
def disk_errors_as_failure(path: Path) -> Iterator[None]:
    """Turns what the system says where `path` is written into a RunError that names the file and the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # torch.save hides the OSError in its context
        cause = e if isinstance(e, OSError) else e.__context__
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        raise RunError(f"{printable(path)} cannot be written: {cause.strerror}{_remedy(path, cause.errno)}") from e


def _remedy(path: Path, number: int) -> str:
    """What to know or to do about an error of the system, in parentheses; "" where there is nothing to add."""
    if number == errno.EMFILE:
        return " (raise the limit: `ulimit -n 4096`)"
    if number == errno.ENOENT:
        return " (was its folder moved or removed?)"
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ""
    limit = "; see `ulimit -f`" if number == errno.EFBIG else ""
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        inodes = hasattr(os, "statvfs") and os.statvfs(path.parent).f_favail == 0 and free > 2**20
        return " (no inodes are left there: remove files)" if inodes else f" ({free / 2**20:.1f} MiB free there{limit})"
    return ""


def remove_parts(folder: Path, older_than: float = 0) -> None:
    """Removes the temporary files of a process that was killed while it wrote into `folder`.

    Args:
        older_than: seconds since the last write.
    """
    with disk_errors_as_failure(folder):
        for part in folder.glob(f".*{PART}"):
            if not older_than or part.stat().st_mtime < time.time() - older_than:
                part.unlink(missing_ok=True)


def check_writable(path: str | Path, flag: str, folder: bool = False) -> None:
    """Raises UsageError where `path`, a file or a folder to be made, cannot be written; `flag` gave it."""
    path = Path(path)
    if os.path.exists(path) and path.is_dir() != folder:
        is_one, wanted = ("file", "folder") if folder else ("folder", "file")
        raise UsageError(f"{flag}={path} is a {is_one}: give a {wanted}")
    place = path if os.path.exists(path) else path.parent
    while folder and not os.path.exists(place):
        place = place.parent
    if not os.path.exists(place):
        raise UsageError(f"no folder {place} for {flag}={path}: make it, or give another place")
    if not os.access(place, os.W_OK) or not (place.is_dir() or os.path.exists(path)):
        raise UsageError(f"{flag}={path} cannot be written: give another place")
    if place.is_dir():
        with disk_errors_as_failure(path):
            try:
                tempfile.TemporaryFile(dir=place).close()  # only this tells of /proc, and of what root may not
            except (PermissionError, FileNotFoundError) as e:
                raise UsageError(f"{flag}={path} cannot be written ({e.strerror}): give another place") from e


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut; file systems that cannot are left alone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
