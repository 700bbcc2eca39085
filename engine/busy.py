"""Whether other processes keep the cores busy, so that fewer threads compute faster.

Threads wait for the slowest of them at each layer. On 2 cores DigitNet made 2.1 steps a second with two threads
and 1.4 with one; beside one other process 1.0 and 1.4 (medians; measured 2026-11-25).
"""

import os
import time
from contextlib import suppress

import torch

from config import Config
from data.loaders import cores
from utils import world

SHORTEST = 0.5  # seconds of observation below which nothing is said
OTHERS = 0.75  # cores that others use, from which on there is a hint


def _now() -> tuple[float, float, float] | None:
    """Seconds on the clock, seconds that this process's cores have worked, and for this process; None if not known."""
    with suppress(OSError, ValueError, AttributeError):
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        with open("/proc/stat", encoding="ascii") as file:
            lines = [line.split() for line in file if line.partition(" ")[0] in mine]
        # user, nice, system, (idle, iowait), irq, softirq, steal
        ticks = sum(int(line[i]) for line in lines for i in (1, 2, 3, 6, 7, 8))
        own = os.times()
        used = own.user + own.system + own.children_user + own.children_system
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), used
    return None


_start = _now()


def slow_hint(opt: Config) -> str | None:
    """A line where fewer threads or processes would be faster; None where that is not known."""
    return busy_hint(opt) if world.now.size == 1 else processes_hint(opt)


def processes_hint(opt: Config) -> str | None:
    """A line where several processes compute on the cores of one machine, of which one alone uses all as well."""
    if opt.use_gpu is not False and torch.cuda.is_available():
        return None
    if len(set(world.now.makers)) > 1:
        return None
    more = f", which have {cores()} core each" if world.now.local_size * cores() > (os.cpu_count() or 1) else ""
    return (
        f"{world.now.size} processes share the cores of one machine{more}: one process with all threads is usually "
        "faster on a CPU (docs/many-machines.md)"
    )


def busy_hint(opt: Config) -> str | None:
    """A line where others have used the cores since this program started; None where they have not."""
    now, threads = _now(), torch.get_num_threads()
    if opt.threads or threads == 1 or _start is None or now is None or now[0] - _start[0] < SHORTEST:
        return None
    seconds, worked, own = (b - a for a, b in zip(_start, now, strict=True))
    others = (worked - own) / seconds
    if others < OTHERS:
        return None
    fewer = max(cores() - round(others), 1)
    return (
        f"this machine is busy: other processes use {others:.1f} of its {cores()} cores, and {threads} threads wait "
        f"for each other; --threads={fewer} may be faster"
    )
