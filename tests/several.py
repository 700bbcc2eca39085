"""Trainings in several processes, for tests: in float64, where sums in another order differ by 1e-16 and not by 1e-7.

The processes are forked from that of the tests, as the import of torch takes longer than such a training.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchmetrics  # noqa: F401 - here and below: what a training imports, once for all that are forked
from conftest import TINY, unless_given
from started import started
from torch.distributed import nn  # noqa: F401
from torchvision.transforms import v2  # noqa: F401

import engine.setup  # noqa: F401
from data.transforms import Preprocess
from engine.loop import Trainer

SAME = ["--model=DigitNet", "--image-size=16", "--batch-size=16", "--max-epoch=3", "--print-freq=1"]


@dataclass
class Trained:
    """How the processes of a training have ended: their exit codes, what each has said, and the seconds it took."""

    codes: list[int]
    out: list[str]
    err: list[str]
    seconds: float
    folder: Path

    @property
    def run(self) -> Path:
        """The only run of the folder."""
        (run,) = (path for path in self.folder.iterdir() if path.name[0] != ".")
        return run


def train(
    folder: Path,
    processes: int,
    *flags: str,
    before: Callable[[int], object] = int,
    env: dict[str, str] | None = None,
    wait: float = 60,
) -> Trained:
    """`main.py train FLAGS` in float64 in so many processes, which make their runs in `folder`.

    Args:
        before: called with the rank in each process, before the command.
        env: of all, as a launcher would set it.
        wait: seconds after the end of the first one until the others are killed.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [*unless_given([*unless_given(TINY, tuple(SAME)), *SAME], flags), *flags, f"--checkpoint-dir={folder}"]

    def prepare(rank: int) -> Callable[[], None]:
        def prepared() -> None:
            of_rank = {**own, "RANK": rank, "LOCAL_RANK": rank, **(env or {})}
            os.environ |= {name: str(value) for name, value in of_rank.items()}
            in_float64()
            before(rank)

        return prepared

    children = [started("train", *words, before=prepare(rank)) for rank in range(processes)]
    while all(child.poll() is None for child in children):
        time.sleep(0.01)
    start = time.monotonic()
    while any(child.poll() is None for child in children) and time.monotonic() < start + wait:
        time.sleep(0.01)
    seconds = time.monotonic() - start
    for child in children:
        child.kill()
    out, err = zip(*(child.communicate() for child in children), strict=True)
    return Trained([child.returncode for child in children], list(out), list(err), seconds, folder)


def in_float64() -> None:
    """Everything that is float32 in a training is float64 from now on."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    normalize = Preprocess.normalize
    Preprocess.normalize = lambda self, images: normalize(self, images).double()


def at_step(number: int, rank: int, action: Callable[[Trainer], object]) -> Callable[[int], None]:
    """For `before`: the action is taken in process `rank` when it begins this step."""

    def plant(own_rank: int) -> None:
        step = Trainer.step

        def watched(self: Trainer, batch: object) -> None:
            if self.state.step + 1 == number:
                action(self)
            step(self, batch)

        if own_rank == rank:
            Trainer.step = watched

    return plant
