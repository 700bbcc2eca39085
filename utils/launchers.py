"""What torchrun and srun tell a process by its environment: which of several processes it is. Imports no torch."""

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UsageError

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
