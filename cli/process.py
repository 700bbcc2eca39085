"""What the process of a command line needs: its packages, its output, and what it exits with."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("analysis", "cli", "commands", "config", "data", "engine"),
    *("export", "models", "report", "runs", "sweeps", "utils"),
)
# errors of the system that are never the program's: of the disk, and of limits
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}

for _name in PACKAGES:
    _file = getattr(sys.modules.get(_name), "__file__", None)
    if _file and ROOT not in Path(_file).resolve().parents:
        raise ImportError(f"{_file} was imported as {_name!r}, which is a package of {ROOT} too: import main first")
# Until a command runs, a Ctrl-C ends it without a traceback.
if Path(sys.argv[0]).resolve() == ROOT / "main.py" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from utils import launchers, world  # noqa: E402
from utils.errors import RunError, Stopped, UsageError, in_import  # noqa: E402
from utils.text import one_line  # noqa: E402


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the process with a code for what ends the block: see utils/errors.py. A bug keeps its traceback."""
    try:
        with _codes():
            yield
    except SystemExit as e:
        if world.stuck:  # Python's own end would wait for it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(e.code or 0))
        raise


@contextmanager
def _codes() -> Iterator[None]:
    _prepare()
    try:
        yield
        sys.stdout.flush()
    except (UsageError, RunError) as e:
        if not launchers.is_first_of_machine() and not getattr(e, "tell", False):
            sys.exit(2)  # that one says the same
        _leave(e, 2 if isinstance(e, UsageError) else 1)
    except Stopped as e:
        settle()
        sys.exit(e.code)
    except KeyboardInterrupt:
        if not launchers.is_first():
            sys.exit(130)
        _leave("stopped", 130)
    except BrokenPipeError:  # as in `main.py help | head -1`: nobody reads on
        settle()
        sys.exit(141)
    except OSError as e:
        if e.errno not in MACHINE:
            raise
        _leave(e, 1)


def _leave(what: object, code: int) -> None:
    with suppress(OSError):  # stderr may be closed, or full
        print(f"main.py: {one_line(what)}", file=sys.stderr)
    settle()
    sys.exit(code)


def _prepare() -> None:
    """Closed output, as cron may give it, goes nowhere: else the next file that is opened would get it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may hold any bytes
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C: ends an import with the process, as nobody knows what half of a module makes of the exception."""
    if in_import(frame):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    raise KeyboardInterrupt


def settle() -> None:
    """Writes what is pending of the output; what cannot be written goes nowhere: Python would exit with 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
