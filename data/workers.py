"""Worker processes that read images: signals are left to the main process, and errors become one line."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from utils.errors import RunError
from utils.launchers import die_with_parent

STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
SHARED_MEMORY = ("Bus error", "shared memory", "No space left on device")  # as torch says it
TOO_MANY_FILES = ("Too many open files", "received 0 items of ancdata")

_torch_handlers: list[Any] = []


def init_worker(_: int) -> None:
    """Limits a worker to one thread, with a lower priority than the training, which may share its cores."""
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(5)
    die_with_parent()


@contextmanager
def block_signals() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C and SIGTERM, which are sent to all processes at once."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError if the block takes longer; only on the main thread, and if there is SIGALRM."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _too_late)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_late(*_: object) -> None:
    raise TimeoutError


@contextmanager
def watchdog(timeout: float) -> Iterator[None]:
    """Raises, only within the block, if a worker has died or the block takes more than `timeout` seconds.

    torch reports a worker's death from a SIGCHLD handler, which raises wherever the program is, even in the
    middle of a step. torch's own timeout does not notice a worker that freezes while it sends a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with time_limit(timeout):
            if _torch_handlers:
                signal.signal(signal.SIGCHLD, _torch_handlers[0])
                _torch_handlers[0](signal.SIGCHLD, None)  # reports a worker that has died since
            yield
    finally:
        end_watchdog()


def end_watchdog() -> None:
    """Stops raising when a worker dies, until the next `watchdog`."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "").startswith("torch.utils.data"):  # torch sets it once per process
        _torch_handlers[:] = [handler]
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def failure(error: Exception, timeout: float, awaited: str) -> RunError | None:
    """Translates an error of torch's DataLoader into a RunError with a remedy; None for any other error.

    Args:
        timeout: the DataLoader's timeout in seconds.
        awaited: the files that were being read, as text.
    """
    text = str(error)
    if any(words in text for words in SHARED_MEMORY):
        return RunError(
            "the worker processes have no shared memory left (/dev/shm): use --num-workers=0, "
            "a smaller --batch-size, or a larger /dev/shm (docker run --shm-size=2g)"
        )
    if "unable to resize file" in text:
        return RunError(
            "the worker processes cannot enlarge their shared memory: File too large (see `ulimit -f`): "
            "raise the limit, or use --num-workers=0"
        )
    if isinstance(error, TimeoutError) or "DataLoader timed out" in text:
        return RunError(
            f"no batch came for {timeout:g} s: a worker process hangs, or the disk is very slow; it was "
            f"reading {awaited}. Look at these files, or wait longer: --data-timeout={2 * timeout:g}"
        )
    if "DataLoader worker (pid" in text:
        how = text.partition("DataLoader worker ")[2].split("\n")[0].rstrip(". ")
        return RunError(
            f"a worker process that reads images is lost, {how}. Often the machine is out of memory: "
            "use fewer workers (--num-workers=1) or a smaller --batch-size"
        )
    if any(words in text for words in TOO_MANY_FILES):
        return RunError("too many open files: raise the limit with `ulimit -n 4096`, or use --num-workers=0")
    return None
