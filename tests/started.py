"""Commands in processes of their own, forked from that of the tests: they need not import torch anew."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable

import torch
from conftest import ROOT
from tqdm import tqdm

import main


def started(*words: object, before: Callable[[], None] | None = None, **options) -> subprocess.Popen:
    """`main.py WORDS` in a new process.

    Args:
        before: called in it, before the command.
        options: those of subprocess.Popen; stdout and stderr are pipes where they are not given.
    """

    def run() -> None:
        cut_off()
        gc.freeze()  # what the tests have left
        gc.enable()
        tqdm.set_lock(threading.RLock())  # its own is one with that of the other processes, of which some are killed
        torch.set_num_threads(1)  # those of the tests' process are not in this one: OpenMP would wait for them
        code: object = 1
        try:
            if before:
                before()
            sys.stdin, sys.stdout, sys.stderr = (
                open(number, mode, closefd=False)  # noqa: SIM115
                for number, mode in enumerate("rww")
            )
            sys.argv = [str(ROOT / "main.py"), *map(str, words)]
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # as cli/process.py leaves it
            main.main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, AttributeError, ValueError):
                    stream.flush()
            os._exit(code if isinstance(code, int) else 1)

    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes |= {"restore_signals": False}  # a Python that starts ignores SIGPIPE
    return subprocess.Popen(["main.py"], preexec_fn=run, **pipes | options)


def cut_off() -> None:
    """What a forked process has open leads nowhere from now on, but its standard streams.

    Its numbers stay taken: what is written there, as a log of pytest's, must not go into a file of the new process.
    Among them is the pipe by which Popen hears of an error.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3, 1000):
        with contextlib.suppress(OSError):
            os.fstat(number)
            os.dup2(nowhere, number)
