"""The processes that read images: they leave stopping to the main process, and their troubles are told in one line."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import RunError

STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
SHARED_MEMORY = ("Bus error", "shared memory", "No space left on device")  # in the words of torch
TOO_MANY_FILES = ("Too many open files", "received 0 items of ancdata")

_torch_handlers = []


def init_worker(_: int) -> None:
    """A worker uses one thread, and gives way to the training threads on a machine whose cores they share."""
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(5)


@contextmanager
def block_signals() -> Iterator[None]:
    """Processes started here never hear Ctrl-C or SIGTERM, which a terminal or a scheduler sends to all of them."""
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
    """Raises TimeoutError in a block that takes longer; only on the main thread, and where there are alarms."""
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


def _too_late(*_) -> None:
    raise TimeoutError


@contextmanager
def watchdog(timeout: float) -> Iterator[None]:
    """Raises here, and nowhere else, where a worker dies or has died, or the block takes more than `timeout` seconds.

    torch tells of a death with a SIGCHLD handler, which raises wherever the program is: also in the middle of a step.
    Its own timeout does not see a worker that is frozen while it hands over a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with time_limit(timeout):
            if _torch_handlers:
                signal.signal(signal.SIGCHLD, _torch_handlers[0])
                _torch_handlers[0](signal.SIGCHLD, None)  # one that has died since
            yield
    finally:
        end_watchdog()


def end_watchdog() -> None:
    """From here on nothing is raised where a worker dies, until the next watch."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "").startswith("torch.utils.data"):  # torch sets it once in a process
        _torch_handlers[:] = [handler]
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def failure(error: Exception, timeout: float, awaited: str) -> RunError | None:
    """What an error of torch's data loader means and what helps; None for any other error.

    Args:
        timeout: seconds that it waits for a batch.
        awaited: the files that it waits for, in words.
    """
    text = str(error)
    if any(words in text for words in SHARED_MEMORY):
        return RunError(
            "no shared memory is left (/dev/shm) for what the worker processes read: --num-workers=0, "
            "a smaller --batch-size, or a larger /dev/shm (docker run --shm-size=2g)"
        )
    if "unable to resize file" in text:
        return RunError(
            "shared memory for what the worker processes read: File too large (see `ulimit -f`): "
            "raise the limit, or use --num-workers=0"
        )
    if isinstance(error, TimeoutError) or "DataLoader timed out" in text:
        return RunError(
            f"no batch came for {timeout:g} s: a worker process hangs, or the disk is that slow; it was to read "
            f"{awaited}. Inspection at these, or wait longer: --data-timeout={2 * timeout:g}"
        )
    if "DataLoader worker (pid" in text:
        how = text.partition("DataLoader worker ")[2].split("\n")[0].rstrip(". ")
        return RunError(
            f"a worker process that reads images is lost, {how}. Often the machine is out of memory: "
            "fewer of them (--num-workers=1) or a smaller --batch-size"
        )
    if any(words in text for words in TOO_MANY_FILES):
        return RunError("too many open files: raise the limit with `ulimit -n 4096`, or use --num-workers=0")
    return None
