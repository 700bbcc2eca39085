"""The report of `train --dry-run`: what a whole run would take, from a few steps of it."""

import math
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from config import Config
from data.image_data import ImageData
from data.loaders import Batch, EpochLoader
from engine.loop import Trainer
from engine.resume import ResumePoint
from engine.setup import build_training
from engine.state import EpochProgress, TrainerState
from engine.tasks.base import NonFiniteError
from runs import sinks
from runs.run import Run
from utils.errors import UsageError
from utils.text import counted

MEASURED = 3.0  # seconds of training that are measured, and of validation
FEWEST, BLOCKS = 2, 5  # steps that are measured at least; parts whose means tell how sure the mean is


class SilentRun(Run):
    """A run whose lines stay in its folder."""

    def log(self, line: str) -> None:
        self.log_text(line)


class Start(EpochLoader):
    """The first batches of a loader, as many as `seconds` allow, at least one."""

    def __init__(self, loader: EpochLoader, seconds: float) -> None:
        self.loader, self.limit = loader, seconds
        self.items, self.batch_sampler = loader.items, loader.batch_sampler
        self.seen, self.begun, self.read = 0, 0.0, 0.0

    def set_epoch(self, epoch: int, start: int = 0) -> "EpochLoader":
        self.loader.set_epoch(epoch, start)
        return self

    def __iter__(self) -> Iterator[Batch]:
        self.seen, self.begun = 0, time.perf_counter()
        for batch in self.loader:
            yield batch
            self.seen += len(batch)
            if time.perf_counter() - self.begun > self.limit:
                break
        self.read = time.perf_counter()


@dataclass
class Steps:
    """Seconds of training steps, with the wait for their images."""

    seconds: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.seconds)

    @property
    def range(self) -> tuple[float, float]:
        """The means of the fastest and the slowest of BLOCKS parts in a row."""
        cuts = [round(len(self.seconds) * i / BLOCKS) for i in range(BLOCKS + 1)]
        means = [statistics.fmean(self.seconds[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]
        return min(means), max(means)


def dry_run(opt: Config, dataset: ImageData, start_from: Path | None, point: ResumePoint) -> dict[str, float]:
    """Prints what a run, or the rest of a resumed one, would take; leaves nothing behind.

    Returns:
        seconds, with the bounds `fastest` and `slowest`; `memory` and `disk` in bytes.

    Raises:
        UsageError: a resumed run has done its epochs.
    """
    if point.epoch >= opt.max_epoch:
        raise UsageError(f"--dry-run: nothing is left to train, its {point.epoch} epochs are done: give more epochs")
    sinks.load_all(opt)  # refuses what a training would refuse
    begun = time.perf_counter()
    task, loaders, metadata = build_training(opt, dataset, start_from, point)
    place = Path(opt.checkpoint_dir)
    while not place.is_dir():
        place = place.parent
    with tempfile.TemporaryDirectory(prefix=".dry_run_", dir=place) as folder, loaders:
        own = opt.model_copy(update={"checkpoint_dir": folder, "vis_port": None, "sinks": [], "save_every": 10**9})
        run = SilentRun.create(own)
        try:
            state = TrainerState.from_state_dict(point.trainer)
            trainer = Trainer(task, loaders.train, loaders.val, run, own, metadata, state)
            state.watch(own.monitor or task.monitor)
            return report(opt, trainer, begun, place)
        finally:
            run.close()


def report(opt: Config, trainer: Trainer, begun: float, place: Path) -> dict[str, float]:
    train, task, done = trainer.train, trainer.task, trainer.state.epoch + trainer.state.progress.seen / len(
        trainer.train.items
    )
    train_steps(trainer, 0, 1)  # warms up
    start = time.perf_counter() - begun
    share = opt.progressive_resizing if hasattr(task, "side") else 0.0  # smaller images until then
    left, per_epoch = 1 - done / opt.max_epoch, len(train.batch_sampler)
    small = max(share - done / opt.max_epoch, 0) / left if left else 0.0
    phases = [(part, first) for part, first in ((small, 0.0), (1 - small, share if small else 0.0)) if part > 0]
    measured = [(part, measure_steps(trainer, first)) for part, first in phases]
    first_batch = time_of_first_batch(train)
    validation, saving, size, pictures = measure_epoch_end(trainer)
    epochs, steps = opt.max_epoch - trainer_epoch(trainer, done), left * opt.max_epoch * per_epoch
    saves = epochs + steps / opt.save_every
    fixed = start + epochs * (validation + first_batch) + saves * saving
    seconds = fixed + steps * sum(part * each.mean for part, each in measured)
    low, high = (fixed + steps * sum(part * each.range[i] for part, each in measured) for i in (0, 1))
    counts = sum(len(each.seconds) for _, each in measured)
    memory, disk = peak_memory(task.device.device), size * (opt.keep + 2) + pictures * epochs
    free = shutil.disk_usage(place).free
    each = ", then ".join(f"{1000 * steps.mean:.3g} ms" for _, steps in measured)
    batches = counted(round(steps), "step")
    print(f"time    {duration(seconds)} ({duration(low)} to {duration(high)}), for {counted(epochs, 'epoch')}, {batches}")
    print(f"        a step {each}, with its images (mean of {counts}; range: the fastest and slowest fifth)")
    print(f"        validation {validation:.2f} s, saving {saving:.2f} s an epoch; {start:.1f} s to start")
    print(f"memory  {mebibytes(memory)} at the peak, of {mebibytes(all_memory(task.device.device))}")
    print(f"disk    {mebibytes(disk)}: {opt.keep + 2} checkpoints of {mebibytes(size)}, and pictures; {mebibytes(free)} free")
    if disk > free:
        print("        warning: too little disk: give fewer with --keep, or another --checkpoint-dir")
    print("nothing was kept")
    return {"seconds": seconds, "fastest": low, "slowest": high, "memory": memory, "disk": disk}


def trainer_epoch(trainer: Trainer, done: float) -> int:
    return math.floor(done)


def train_steps(trainer: Trainer, seconds: float, fewest: int) -> list[float]:
    """Takes steps for so many seconds, or to the end of the epoch; returns what each took with its images."""
    times: list[float] = []
    begun = last = time.perf_counter()
    for batch in trainer.train.set_epoch(0):
        trainer.step(batch)
        if trainer.state.step % trainer.opt.print_freq == 0 or time.perf_counter() - last > 1:
            trainer.record_steps()
        synchronize(trainer.task.device.device)
        now = time.perf_counter()
        times.append(now - last)
        last = now
        if len(times) >= fewest and now - begun > seconds:
            break
    return times


def measure_steps(trainer: Trainer, first: float) -> Steps:
    """Steps as they are from the part `first` of the training on."""
    if first:
        epochs = first * trainer.opt.max_epoch
        seen = math.ceil(epochs % 1 * len(trainer.train.items))
        state = trainer.state
        trainer.state = TrainerState(math.floor(epochs), state.step, EpochProgress(seen=seen), state.monitor)
        trainer.opt.lr = 1e-12  # a rate of then would blow up a net that has learned nothing
    times = train_steps(trainer, MEASURED, FEWEST + 1)
    return Steps(times[1:] or times)  # the first one waits for its images longer: it counts by the epoch


def time_of_first_batch(loader: EpochLoader) -> float:
    begun = time.perf_counter()
    next(iter(loader.set_epoch(0)), None)
    return time.perf_counter() - begun


def measure_epoch_end(trainer: Trainer) -> tuple[float, float, int, int]:
    """Seconds of a validation with its pictures, and of saving; bytes of a checkpoint, and of an epoch's pictures."""
    part, folder, opt = Start(trainer.val, MEASURED), trainer.run.folder, trainer.opt
    trainer.val, saving = part, [0.0]
    save = trainer.save

    def timed_save() -> None:
        begun = time.perf_counter()
        save()
        saving[0] = time.perf_counter() - begun

    trainer.save = timed_save  # type: ignore[method-assign]
    next(iter(part.loader.set_epoch(0)), None)  # starts the processes that read
    begun = time.perf_counter()
    try:
        trainer.end_epoch()
    except NonFiniteError:
        if part.seen == len(part.items):
            raise
    end = time.perf_counter()
    scale = len(part.items) / part.seen
    after = end - part.read - saving[0]
    after *= 1 if opt.judge else scale  # with a judge as many images are generated, however few real ones there are
    size = max(path.stat().st_size for path in folder.glob("step_*.pth"))
    pictures = sum(path.stat().st_size for path in folder.glob("samples/*_[0-9]*.png"))
    return (part.read - begun) * scale + after, saving[0], size, pictures


def synchronize(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def all_memory(device: torch.device) -> int:
    import os

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """95 -> 1 min 35 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
