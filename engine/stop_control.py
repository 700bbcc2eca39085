"""How a training is stopped, saved or looked into from outside: by signals, and by files that the user touches."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from data.loaders import Batch
from utils import world
from utils.errors import RunError, Stopped, UsageError, in_import

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}  # 128 + the signal's number, as shells have it
CHECK_EVERY = 0.5  # seconds between two checks for files
TWICE = 2.0  # seconds within which several processes may get the same signal twice: from a user and from a launcher


class StopControl:
    """Listens to the user while it is entered: `with StopControl(...) as stops`.

    The first Ctrl-C, SIGTERM or hang-up raises Stopped where `interruptible` waits for a batch, else after the step.
    The second ends the process at once. A file STOP in `folder` raises Stopped too, a file SAVE calls `save`.
    Only files of the same user count.
    """

    def __init__(self, folder: Path, log: Callable[[str], None], save: Callable[[], None]) -> None:
        self.folder, self.log, self.save = folder, log, save
        self.requested: Stopped | None = None
        self.requested_at = 0.0
        self.may_raise = False
        self.checked_at = time.monotonic()
        self.logged: set[str] = set()
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopControl":
        if world.is_first():
            self._take(self.folder / "STOP")  # one that came after the last run's end
            self._take(self.folder / "SAVE")
        if threading.current_thread() is threading.main_thread():
            for name in CODES:
                number = getattr(signal, name, None)
                if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup: a hang-up means nothing
                    self.handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def interruptible(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; a stop ends the wait for one at once, and the work on one after it is done."""
        batches = iter(batches)
        while True:
            batch, trouble = None, None
            try:
                with self._raising():
                    batch = next(batches, None)
            except (Stopped, UsageError, RunError) as e:
                trouble = e
            lines = world.agree(trouble, batch.bad if batch else [])  # all processes stop here, or none does
            if batch is None:
                return
            yield replace(batch, bad=lines) if lines != batch.bad else batch
            self._check_files()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested:
            if world.now.size > 1 and time.monotonic() - self.requested_at < TWICE:
                return
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(CODES[name])
        what = "Ctrl-C" if name == "SIGINT" else name
        self.requested, self.requested_at = Stopped(what, CODES[name]), time.monotonic()
        with suppress(OSError):  # not `log`: the signal may have come in the middle of it
            if world.is_first():
                os.write(2, f"\n{what}: stopping after this step; once more: at once, without saving\n".encode())
        if self.may_raise and not in_import(frame):
            raise self.requested

    @contextmanager
    def _raising(self) -> Iterator[None]:
        self.may_raise = True
        try:
            if self.requested:
                raise self.requested
            yield
        finally:
            self.may_raise = False

    def _check_files(self) -> None:
        if not world.is_first() or time.monotonic() - self.checked_at < CHECK_EVERY:
            return
        self.checked_at = time.monotonic()
        if self._take(self.folder / "SAVE"):
            self.save()
        if self._take(self.folder / "STOP"):
            self.requested = Stopped(f"{self.folder / 'STOP'}", 0)

    def _take(self, path: Path) -> bool:
        """Removes the file; returns whether the user had put it there."""
        if not self._is_mine(path):
            return False
        with suppress(OSError):
            path.unlink()
        return True

    def debugger_wanted(self, path: str | None) -> bool:
        """Whether the user's own file `path` exists, and somebody sits at a terminal: that of process 0."""
        return bool(path) and world.same(world.is_first() and self._debugger_wanted(str(path)))

    def _debugger_wanted(self, path: str) -> bool:
        if not self._is_mine(Path(path)):
            return False
        if not _at_terminal():
            self._log_once(f"{path} exists, but there is no terminal for a debugger: ignored")
            return False
        self._log_once(
            f"{path} exists: here is the debugger, with batch, model, optimizer, loss, opt and task; `c` continues, "
            "and opens it again while the file exists; `q` stops the training"
        )
        return True

    def _is_mine(self, path: Path) -> bool:
        try:
            owner = path.stat().st_uid
        except OSError:
            return False
        if hasattr(os, "getuid") and owner != os.getuid():
            self._log_once(f"{path} belongs to another user: ignored")
            return False
        return True

    def _log_once(self, line: str) -> None:
        if line not in self.logged:
            self.logged.add(line)
            self.log(line)


def open_debugger(frame: FrameType) -> None:
    """Opens a debugger in `frame`: ipdb where it is installed, else pdb. `q` raises bdb.BdbQuit in the frame."""
    try:
        import ipdb

        ipdb.set_trace(frame)
    except ImportError:
        import pdb

        pdb.Pdb().set_trace(frame)


def _at_terminal() -> bool:
    """Whether a debugger can read: a background job that reads from its terminal is halted."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):
        return False
