"""Joins the processes that train one run together. Imports no torch before they are joined.

torchrun or srun starts them, on one machine or on several, and tells each by its environment who it is; or this
program starts those of its own machine (`--processes`): the exit code, the terminal and the debugger stay its own.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from engine.addresses import address_towards, check_address, choose_interface
from utils import world
from utils.errors import OneLineError, RunError, Stopped, UsageError
from utils.launchers import MAIN, Place, die_with_parent, place
from utils.options import dashed

JOINING = 300.0  # seconds until all must have come
ANSWER = 1.0  # seconds that process 0 waits for the others to take notice of its end
ENDING = 5.0  # seconds that the processes started here may take to end after the first one
OURS = "STARTED_BY_PROCESS_0"  # in the environment of the processes that this program starts


def check(processes: int, dry_run: bool) -> None:
    """Refuses a number of processes that cannot be.

    Raises:
        UsageError: a launcher has started several already, or only one is to be measured.
    """
    found = place()
    several = found.size if found else processes
    if found and processes > 1:
        raise UsageError(
            f"--processes={processes} has no effect where a launcher has started {found.size} processes: leave it out"
        )
    if dry_run and several > 1:
        raise UsageError("--dry-run measures one process: leave --processes or the launcher out")


@contextmanager
def joined(processes: int, timeout: float, flags: Mapping[str, Any]) -> Iterator[None]:
    """In the block all processes of the training are there, and utils/world.py reaches them.

    What ends the block in one of them ends it in all. The others than process 0 say nothing, unless it cannot.

    Args:
        processes, timeout: known to process 0 alone, which tells the others; the second in seconds.
        flags: options that the processes which this one starts are given.
    """
    found, children, listener = place(), [], None
    if found is None and processes == 1:
        yield
        return
    if found is None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=processes)
        found = Place(0, processes, 0, processes, 0, "127.0.0.1", listener.getsockname()[1])
        children = [_start(replace(found, rank=rank, local_rank=rank), flags) for rank in range(1, processes)]
    try:
        with _one_voice(found):
            check_address(found)
            _import()
            _watched(children, lambda: _join(found, listener, timeout))
            yield
    except world.LostError:
        for child in children:
            _unless_stopped(child.poll())
        raise
    finally:
        _end(children)


def _start(spot: Place, flags: Mapping[str, Any]) -> subprocess.Popen:
    """Another process of this machine, with the same options."""
    words = [f"--{dashed(name)}={value}" for name, value in flags.items() if name != "processes"]
    own: dict[str, Any] = {
        "RANK": spot.rank,
        "WORLD_SIZE": spot.size,
        "LOCAL_RANK": spot.rank,
        "LOCAL_WORLD_SIZE": spot.size,
    }
    own |= {"MASTER_ADDR": spot.address, "MASTER_PORT": spot.port, OURS: os.getpid()}
    env = os.environ | {name: str(value) for name, value in own.items()}
    return subprocess.Popen([sys.executable, str(MAIN), "train", *words], env=env, stdin=subprocess.DEVNULL)


def _watched(children: list[subprocess.Popen], join: Callable[[], None]) -> None:
    """`join()`, which would wait for a process that has ended as for one that is late.

    Raises:
        RunError, Stopped: one has ended before it has joined.
    """
    troubles: list[BaseException] = []
    if not children:
        join()
        return

    def run() -> None:
        try:
            join()
        except BaseException as e:
            troubles.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        for rank, child in enumerate(children, 1):
            code = child.poll() if thread.is_alive() else None
            _unless_stopped(code)
            if code is not None:
                raise RunError(f"process {rank} has ended before it has joined the others, with exit code {code}")
    for trouble in troubles:
        raise trouble


def _unless_stopped(code: int | None) -> None:
    """Raises Stopped where a process has ended with this exit code by a signal that asks it to stop."""
    if code in (-signal.SIGTERM, -signal.SIGINT):
        raise Stopped(f"stopped by {signal.Signals(-code).name} before the first step", 128 - code)


def _end(children: list[subprocess.Popen]) -> None:
    """Waits for the processes that were started here; ends those that hang."""
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(ENDING)
    for child in children:
        child.kill()
        child.wait()


@contextmanager
def _one_voice(spot: Place) -> Iterator[None]:
    """Process 0 tells how the training ends; another one only what process 0 cannot tell."""
    if spot.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
        warnings.simplefilter("ignore")
        if OURS in os.environ:
            die_with_parent()
            if os.getppid() != int(os.environ[OURS]):
                sys.exit(1)
    try:
        yield
    except BaseException as e:
        told = _left(e)
        if isinstance(e, Stopped):
            raise Stopped(str(e), _code(e)) from e
        if spot.rank and _is_told(e, told, spot):
            raise SystemExit(2 if isinstance(e, UsageError) else 1) from e
        e.tell = True  # type: ignore[attr-defined]
        raise
    _left(None)


def _is_told(e: BaseException, told: dict[str, Any] | None, spot: Place) -> bool:
    """Whether another process says why this one ends: process 0, or one of this machine where 0 cannot."""
    if isinstance(e, OneLineError):
        return told is not None or spot.local_rank != (0 if spot.machine else 1)
    return told is not None and told.get("kind") == type(e).__name__


def _code(e: BaseException) -> int:
    """torchrun would start processes again that a user has stopped, unless they say that all is well."""
    return 0 if "TORCHELASTIC_RUN_ID" in os.environ else getattr(e, "code", 1)


def _left(e: BaseException | None) -> dict[str, Any] | None:
    """Leaves the others; returns how process 0 has ended, once it has saved and told."""
    if world.now.size == 1:
        return None
    world.post_end(e)
    world.leave()
    if world.now.rank == 0:
        end = time.monotonic() + ANSWER  # the store may be of this process: they are to read from it how it ends
        for rank in range(1, world.now.size):
            world.read(f"gone/{rank}", max(end - time.monotonic(), 0))
        told: dict[str, Any] | None = {}
    else:
        told = None if world.now.first_is_lost else world.end_of(0, world.now.timeout + ENDING)
        world.post(f"gone/{world.now.rank}", "")
    world.alone()
    return told


def _import() -> None:
    """Imports what a training needs: a module that came later might keep a group as a default argument, and so its
    links open. Called on the main thread, as the profiler wants it.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # its warnings of lost links are told by us, in one line
    import torch.distributed.nn  # noqa: F401

    import engine.loop
    import engine.setup  # noqa: F401


def _join(spot: Place, listener: socket.socket | None, timeout: float) -> None:
    """Meets the others, and tells world of them.

    Raises:
        RunError: they do not come.
    """
    from torch import distributed as dist

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = spot.address, str(spot.port)
    limit = timedelta(seconds=JOINING)
    try:
        if listener:
            store: Any = dist.TCPStore(
                *(spot.address, spot.port, spot.size, True, limit),
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )
        elif OURS in os.environ:
            store = dist.TCPStore(spot.address, spot.port, spot.size, False, limit)
        else:
            store, *_ = next(dist.rendezvous("env://", spot.rank, spot.size, timeout=limit))
        word, others = _introduced(spot, dist.PrefixStore("places", store), timeout)
        choose_interface(spot, others)
        store = dist.PrefixStore(word, store)
        found = _world(spot, others, store)
        limit = found.limit
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("group", store), rank=spot.rank, world_size=spot.size, timeout=limit
        )
        found.side_group = dist.new_group(timeout=limit)
    except (RuntimeError, ValueError) as e:
        whom = f"process 0 at {spot.address}, port {spot.port}, or from another" if spot.rank else "one of them"
        raise RunError(
            f"process {spot.rank} on {socket.gethostname()} cannot join the others: no answer from {whom} within "
            f"{limit.total_seconds():.0f} s ({' '.join(str(e).split())[:200]})"
        ) from e
    world.now = found


def _world(spot: Place, others: list[dict[str, Any]], store: Any) -> world.World:
    machines, mine = (
        [one["machine"] for one in others],
        [one["cores"] for one in others if one["machine"] == spot.machine],
    )
    shared = all(cores == mine[0] for cores in mine)  # srun may have given each process cores of its own
    return world.World(
        rank=spot.rank,
        size=spot.size,
        local_rank=spot.local_rank,
        local_size=spot.local_size,
        store=store,
        hosts=[one["host"] for one in others],
        makers=[machines.index(machine) for machine in machines],
        cores=max(len(mine[0]) // len(mine), 1) if shared else len(mine[spot.local_rank]),
        timeout=others[0]["timeout"],
    )


def _introduced(spot: Place, store: Any, timeout: float) -> tuple[str, list[dict[str, Any]]]:
    """A word that only the processes of this launch have, and what each of them says of itself.

    A launcher that starts processes again may keep the store, and what those before left in it. So process 0 offers a
    word with what it has read of all, until each has found itself in it and said so.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    own = {"host": socket.gethostname(), "machine": spot.machine, "address": address_towards(spot.address)}
    own |= {"cores": cores, "timeout": timeout, "nonce": secrets.token_hex(8)}
    store.set(f"place/{spot.rank}", json.dumps(own))
    end, offered, word = time.monotonic() + JOINING, [""], ""
    while time.monotonic() < end:
        if spot.rank == 0:
            places = [store.get(f"place/{rank}").decode() for rank in range(spot.size)]
            if places != offered:
                offered, word = places, secrets.token_hex(8)
                store.set("offer", json.dumps([word, places]))
            if all(store.check([f"{word}/{rank}"]) for rank in range(1, spot.size)):
                store.set(f"{word}/0", "")
                return word, [json.loads(text) for text in places]
        else:
            word, places = json.loads(store.get("offer"))
            if places[spot.rank : spot.rank + 1] == [json.dumps(own)]:
                store.set(f"{word}/{spot.rank}", "")
                if store.check([f"{word}/0"]):
                    return word, [json.loads(text) for text in places]
        time.sleep(0.02)
    raise RuntimeError("not all processes have come")
