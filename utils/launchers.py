"""What torchrun and srun tell a process by its environment: which of several processes it is. Imports no torch."""

import ctypes
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UsageError

PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
MARK = ".launch"  # in a run folder
MAIN = Path(__file__).resolve().parent.parent / "main.py"
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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
    """What the launcher has told this process; None where it is alone.

    Raises:
        UsageError: torchrun's variables are there in part.
    """
    found = None
    if "RANK" in env and "WORLD_SIZE" in env:
        found = _of_torchrun(env)
    elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        found = _of_slurm(env)
    return found if found and found.size > 1 else None


def is_first(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one that speaks."""
    rank = env.get("RANK") or (env.get("SLURM_PROCID") if "SLURM_STEP_NUM_TASKS" in env else None)
    return rank in (None, "0")


def is_first_of_machine(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process speaks of what it finds before it has met those of other machines."""
    return (env.get("LOCAL_RANK") or env.get("SLURM_LOCALID")) in (None, "0")


def launch_id(env: Mapping[str, str] = os.environ) -> str | None:
    """What tells this launch from all others, and is the same when its launcher starts the processes again.

    None: nobody would start them again.
    """
    if "TORCHELASTIC_RUN_ID" in env:
        if (name := env["TORCHELASTIC_RUN_ID"]) != "none":
            return f"torchrun {name}"
        return f"torchrun {socket.gethostname()} {os.getppid()} {_began(os.getppid())}"  # the launcher itself
    if "SLURM_STEP_NUM_TASKS" in env:
        return f"slurm {env['SLURM_JOB_ID']}.{env.get('SLURM_STEP_ID', 0)}"
    return None


def forget() -> None:
    """From now on this process, and what it starts, knows of no launcher."""
    names = (*TORCHRUN, "TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
    for name in names:
        os.environ.pop(name, None)


def mark(run: Path) -> None:
    """Keeps in a run folder which launch began it, where its launcher may start the processes again."""
    if launch := launch_id():
        (run / MARK).write_text(launch, encoding="utf-8")


def begun(runs: Path) -> Path | None:
    """The newest run of the folder `runs` that this launch has begun before; None where it has begun none."""
    launch = launch_id()
    found = [path for path in runs.glob(f"*/{MARK}") if launch and path.read_text(encoding="utf-8") == launch]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def is_restart(env: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher says that it starts the processes again."""
    return any(int(env.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def _of_torchrun(env: Mapping[str, str]) -> Place:
    if missing := [name for name in TORCHRUN if not env.get(name)]:
        raise UsageError(
            f"RANK and WORLD_SIZE are set in the environment, but not {missing[0]}: start with torchrun, which sets "
            "all of them, or unset RANK"
        )
    rank, size, local_rank, local_size = (int(env[name]) for name in TORCHRUN[:4])
    machine = int(env.get("GROUP_RANK", 0))
    return Place(rank, size, local_rank, local_size, machine, env["MASTER_ADDR"], int(env["MASTER_PORT"]))


def _of_slurm(env: Mapping[str, str]) -> Place:
    machine, tasks = int(env.get("SLURM_NODEID", 0)), _expanded(env.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    return Place(
        rank=int(env["SLURM_PROCID"]),
        size=int(env["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(env["SLURM_LOCALID"]),
        local_size=tasks[min(machine, len(tasks) - 1)],
        machine=machine,
        address=env.get("MASTER_ADDR") or _first_node(nodes),
        port=int(env.get("MASTER_PORT") or 20_000 + int(env["SLURM_JOB_ID"]) % 20_000),
    )


def _expanded(counts: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in parts for _ in range(int(times or 1))] or [1]


def _first_node(nodes: str) -> str:
    """The first host of SLURM's "node[03-05,9],other"."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    return match[1] + (match[2] or "") if match else "localhost"


def _began(pid: int) -> str:
    """When a process began, in ticks since the machine did; "" where the system does not tell."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return ""


def die_with_parent() -> None:
    """Has Linux end this process at once when the thread that started it is gone, also where that was killed."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
