"""Joins the processes that train one run together. Imports no torch before they are joined.

torchrun or srun starts them, on one machine or on several, and tells each by its environment who it is; or this
program starts those of its own machine (`--processes`): the exit code, the terminal and the debugger stay its own.
"""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from utils import world
from utils.errors import OneLineError, RunError, Stopped, UsageError
from utils.options import dashed

MAIN = Path(__file__).resolve().parent.parent / "main.py"
JOINING = 300.0  # seconds until all must have come
ENDING = 10.0  # seconds that the processes started here may take to end after the first one
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
OURS = "STARTED_BY_PROCESS_0"  # in the environment of the processes that this program starts


@dataclass(frozen=True)
class Place:
    """Which process this is, and where process 0 waits for the others."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    machine: int
    address: str
    port: int


def place(env: Mapping[str, str] = os.environ) -> Place | None:
    """What the launcher has told this process; None where it is to train alone.

    Raises:
        UsageError: a launcher's variables are there in part.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if missing := [name for name in names if not env.get(name)]:
            raise UsageError(
                f"RANK and WORLD_SIZE are set in the environment, but not {missing[0]}: start with torchrun, which "
                "sets all of them, or unset RANK"
            )
        rank, size, local_rank, local_size = (int(env[name]) for name in names[:4])
        machine = int(env.get("GROUP_RANK", 0))
        found = Place(rank, size, local_rank, local_size, machine, env["MASTER_ADDR"], int(env["MASTER_PORT"]))
    elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        job, nodes = int(env["SLURM_JOB_ID"]), env.get("SLURM_STEP_NODELIST", env.get("SLURM_JOB_NODELIST", ""))
        tasks, machine = _expanded(env.get("SLURM_STEP_TASKS_PER_NODE", "1")), int(env.get("SLURM_NODEID", 0))
        found = Place(
            rank=int(env["SLURM_PROCID"]),
            size=int(env["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(env["SLURM_LOCALID"]),
            local_size=tasks[min(machine, len(tasks) - 1)],
            machine=machine,
            address=env.get("MASTER_ADDR") or _first_node(nodes),
            port=int(env.get("MASTER_PORT") or 20_000 + job % 20_000),
        )
    else:
        return None
    return found if found.size > 1 else None


def _expanded(counts: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in parts for _ in range(int(times or 1))] or [1]


def _first_node(nodes: str) -> str:
    """The first host of SLURM's "node[03-05,9],other"."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    return match[1] + (match[2] or "") if match else "localhost"


def launch_id(env: Mapping[str, str] = os.environ) -> str | None:
    """What tells this launch from all others, and is the same when its launcher starts the processes again.

    None: nobody would start them again.
    """
    if "SLURM_STEP_NUM_TASKS" in env and "RANK" not in env:
        return f"slurm {env['SLURM_JOB_ID']}.{env.get('SLURM_STEP_ID', 0)}"
    if "TORCHELASTIC_RUN_ID" not in env:
        return None
    if (name := env["TORCHELASTIC_RUN_ID"]) != "none":
        return f"torchrun {name}"
    with suppress(OSError, IndexError):  # the launcher itself: its number, and when it began
        began = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
        return f"torchrun on {socket.gethostname()}: {os.getppid()} of {began}"
    return f"torchrun on {socket.gethostname()}: {os.getppid()}"


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


def is_first() -> bool:
    """Whether this process is process 0, known before the processes are joined."""
    found = place()
    return found is None or found.rank == 0


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
        children = [_start(replace_rank(found, rank), flags) for rank in range(1, processes)]
    try:
        with _one_voice(found):
            _join(found, listener, timeout)
            yield
    finally:
        _end(children)


def replace_rank(spot: Place, rank: int) -> Place:
    return Place(rank, spot.size, rank, spot.local_size, 0, spot.address, spot.port)


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
        if OURS in os.environ and sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # also where process 0 is killed
            if os.getppid() != int(os.environ[OURS]):
                sys.exit(1)
    try:
        yield
    except BaseException as e:
        told = _left(e)
        if (
            spot.rank
            and told is not None
            and (isinstance(e, (OneLineError, Stopped)) or told.get("kind") == type(e).__name__)
        ):
            raise SystemExit({"UsageError": 2, "Stopped": _code(e)}.get(type(e).__name__, 1)) from e
        if isinstance(e, OneLineError) and spot.local_rank:
            raise SystemExit(1) from e  # the first process of this machine says the same
        if isinstance(e, Stopped):
            raise Stopped(str(e), _code(e)) from e
        raise
    _left(None)


def _code(e: BaseException) -> int:
    """torchrun would start processes again that a user has stopped, unless they say that all is well."""
    return 0 if "TORCHELASTIC_RUN_ID" in os.environ else getattr(e, "code", 1)


def _left(e: BaseException | None) -> dict[str, Any] | None:
    """Leaves the others; returns how process 0 has ended, once it has saved and told."""
    if world.now.store is None:
        return None
    from torch import distributed as dist

    world.post_end(e)
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()  # so that their messages to this one fail at once
    if world.now.rank == 0:
        for rank in range(1, world.now.size):  # the store may be of this process
            world.end_of(rank, 1)
        told: dict[str, Any] | None = {}
    else:
        told = world.end_of(0, world.now.timeout + ENDING)
    world.alone()
    return told


def _join(spot: Place, listener: socket.socket | None, timeout: float) -> None:
    """Meets the others, and tells world of them.

    Raises:
        RunError: they do not come. UsageError: process 0 has an address that is none from here.
    """
    if spot.machine and _is_loopback(spot.address):
        raise UsageError(
            f"process 0 is to be at {spot.address}, which on {socket.gethostname()} is this machine itself: give an "
            "address that reaches it from here: `torchrun --local-addr=ADDRESS` on its machine, MASTER_ADDR for srun"
        )
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = spot.address, str(spot.port)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # its warnings of lost links are told by us, in one line
    from torch import distributed as dist

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
        store = dist.PrefixStore("run", store)
        for key in ("end", "here"):  # of processes that a launcher has started again
            with suppress(RuntimeError):
                store.delete_key(f"{key}/{spot.rank}")
        others = _introduced(spot, store, timeout)
        limit = timedelta(seconds=others[0]["timeout"] * 1.1 + 2)  # after a reader has said that it is late itself
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("group", store), rank=spot.rank, world_size=spot.size, timeout=limit
        )
    except (RuntimeError, ValueError) as e:
        raise RunError(
            f"process {spot.rank} cannot join the others: no answer from process 0 at {spot.address}, port "
            f"{spot.port}, or from one of them within {limit.total_seconds():.0f} s ({' '.join(str(e).split())[:200]})"
        ) from e
    hosts, machines = [one["host"] for one in others], [one["machine"] for one in others]
    mine = [one["cores"] for one in others if one["machine"] == spot.machine]
    shared = all(cores == mine[0] for cores in mine)  # srun may have given each process cores of its own
    world.now = world.World(
        rank=spot.rank,
        size=spot.size,
        local_rank=spot.local_rank,
        local_size=spot.local_size,
        store=store,
        hosts=hosts,
        makers=[machines.index(machine) for machine in machines],
        cores=max(len(mine[0]) // len(mine), 1) if shared else len(mine[spot.local_rank]),
        timeout=others[0]["timeout"],
    )


def _introduced(spot: Place, store: Any, timeout: float) -> list[dict[str, Any]]:
    """What each process says of itself; and the network interface by which its machine reaches the others."""
    towards = _address_towards(spot.address)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    own = {"host": socket.gethostname(), "machine": spot.machine, "address": towards, "cores": cores}
    store.set(f"place/{spot.rank}", json.dumps(own | {"timeout": timeout}))
    others = [json.loads(store.get(f"place/{rank}")) for rank in range(spot.size)]
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        far = [one["address"] for one in others if one["machine"] != spot.machine]
        interface = (
            _interface(_address_towards(far[0] if spot.machine == others[0]["machine"] else spot.address))
            if far
            else "lo"
        )
        if interface in [name for _, name in socket.if_nameindex()]:
            os.environ["GLOO_SOCKET_IFNAME"] = interface  # else gloo takes that of the host's name: often 127.0.0.1
    return others


def _is_loopback(address: str) -> bool:
    with suppress(OSError):
        return socket.gethostbyname(address).startswith("127.")
    return False


def _address_towards(address: str) -> str:
    """The address of this machine from which it reaches another one; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return probe.getsockname()[0]
    return "127.0.0.1"


def _interface(address: str) -> str:
    """The network interface that has this address; "" where that is not known."""
    if sys.platform != "linux":
        return ""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                request = fcntl.ioctl(probe, 0x8915, name.encode()[:15].ljust(256, b"\0"))  # SIOCGIFADDR
                if socket.inet_ntoa(request[20:24]) == address:
                    return name
    return ""
