"""The report of `train --dry-run`: what a whole run would take, from a few steps of it."""

import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from config import Config
from data.image_data import ImageData
from data.loaders import Batch, EpochLoader
from engine import provenance
from engine.device import synchronize
from engine.loop import Trainer
from engine.resume import ResumePoint
from engine.setup import build_training
from engine.state import EpochProgress, TrainerState
from engine.tasks.base import NonFiniteError
from runs import sinks
from runs.run import Run
from utils.errors import UsageError
from utils.text import counted, in_words

if sys.platform != "win32":
    import resource

MEASURED = 3.0  # seconds of training that are measured, and of validation
FEWEST, BLOCKS = 2, 5  # steps that are measured at least; parts whose means tell how sure the mean is


@dataclass
class EpochEnd:
    """Seconds of a validation with its pictures, and of a save; bytes of a checkpoint, and of the pictures."""

    validation: float
    saving: float
    checkpoint: int
    pictures: int


class SilentRun(Run):
    """A run whose lines stay in its folder."""

    def log(self, line: str, best: bool = False) -> None:
        self.log_text(line)


class Beginning(EpochLoader):
    """The first batches of a loader, as many as MEASURED seconds allow, at least one.

    Attributes:
        seen: images. read: when the last of them was worked on.
    """

    def __init__(self, loader: EpochLoader) -> None:
        self.loader, self.items, self.batch_sampler = loader, loader.items, loader.batch_sampler
        self.seen, self.read = 0, 0.0

    def __iter__(self) -> Iterator[Batch]:
        begun, self.seen = time.perf_counter(), 0
        for batch in self.loader:
            yield batch
            self.seen, self.read = self.seen + len(batch), time.perf_counter()
            if self.read - begun > MEASURED:
                break


def dry_run(opt: Config, dataset: ImageData, start_from: Path | None, point: ResumePoint) -> dict[str, float]:
    """Prints what a run, or the rest of a resumed one, would take; leaves nothing behind.

    Returns:
        seconds, with the bounds `fastest` and `slowest`; `memory` and `disk` in bytes.

    Raises:
        UsageError: a resumed run has done its epochs; and whatever a training raises before and in its first steps.
    """
    if point.epoch >= opt.max_epoch:
        raise UsageError(f"--dry-run: the {point.epoch} epochs are done: give more, as --max-epoch={2 * point.epoch}")
    sinks.load_all(opt)  # refuses what a training would refuse
    begun = time.perf_counter()
    task, loaders, metadata = build_training(opt, dataset, start_from, point)
    place = Path(opt.checkpoint_dir)
    while not place.is_dir():
        place = place.parent
    with tempfile.TemporaryDirectory(prefix=".dry_run_", dir=place) as folder, loaders:
        own = opt.model_copy(update={"checkpoint_dir": folder, "vis_port": None, "sinks": []})
        run = SilentRun.create(own)
        try:
            state = TrainerState.from_state_dict(point.trainer)
            state.watch(own.monitor or task.monitor)
            return report(Trainer(task, loaders.train, loaders.val, run, own, metadata, state), begun, place)
        finally:
            run.close()


def report(trainer: Trainer, begun: float, place: Path) -> dict[str, float]:
    """Measures and prints; `begun`: when the training was begun to be built; `place`: where a run would be kept."""
    opt, state, device = trainer.opt, trainer.state, trainer.task.device.device
    take_steps(trainer, state, seconds=0)  # warms up
    start, epochs = time.perf_counter() - begun, opt.max_epoch - state.epoch
    steps = epochs * len(trainer.train.batch_sampler) - state.progress.seen // opt.batch_size
    parts = measure_steps(trainer, state)
    waiting, end = time_of_first_batch(trainer.train), measure_epoch_end(trainer)
    fixed = start + epochs * (waiting + end.validation) + (epochs + steps // opt.save_every) * end.saving
    means = [[statistics.fmean(times), *bounds(times)] for _, times in parts]
    seconds, low, high = (
        fixed + steps * sum(share * mean[i] for (share, _), mean in zip(parts, means, strict=True)) for i in range(3)
    )
    memory, disk = peak_memory(device), (opt.keep + 2) * end.checkpoint + epochs * end.pictures
    free = shutil.disk_usage(place).free
    each = ", then ".join(f"{1000 * mean[0]:.4g} ms" for mean in means)
    of = counted(sum(len(times) for _, times in parts), "step")
    for line in (
        f"time    {in_words(seconds)} for {counted(epochs, 'epoch')}, {counted(steps, 'step')}",
        f"        {in_words(low)} to {in_words(high)} at the pace of the fastest and the slowest fifth of {of}",
        f"        a step with its images {each}; a validation {end.validation:.2f} s, a save {end.saving:.2f} s",
        *([f"memory  {mebibytes(memory)} at the peak, of {mebibytes(all_memory(device))}"] if memory else []),
        f"disk    {mebibytes(disk)}: {opt.keep + 2} checkpoints of {mebibytes(end.checkpoint)}, and pictures; "
        f"{mebibytes(free)} are free",
        *(["        warning: too little disk: a smaller --keep, or another --checkpoint-dir"] if disk > free else []),
        "a dry run: nothing is kept",
    ):
        print(line)
    return {"seconds": seconds, "fastest": low, "slowest": high, "memory": memory, "disk": disk}


def measure_steps(trainer: Trainer, state: TrainerState) -> list[tuple[float, list[float]]]:
    """(part of the steps that are left, seconds of some of them): of --progressive-resizing both sizes of images."""
    opt, done = trainer.opt, (state.epoch + state.progress.seen / len(trainer.train.items)) / trainer.opt.max_epoch
    turn = opt.progressive_resizing if done < opt.progressive_resizing else 0.0
    first, parts = (turn - done) / (1 - done) if turn else 1.0, []
    parts.append((first, take_steps(trainer, state, MEASURED)))
    if first < 1:
        epoch, part = divmod(turn * opt.max_epoch, 1)
        seen = min(math.ceil(part * len(trainer.train.items)), max(len(trainer.train.items) - opt.batch_size, 0))
        opt.lr = 1e-12  # the rate of then would blow up a net that has learned nothing
        later = replace(state, epoch=int(epoch), progress=EpochProgress(seen=seen))
        parts.append((1 - first, take_steps(trainer, later, MEASURED)))
    return parts


def take_steps(trainer: Trainer, state: TrainerState, seconds: float) -> list[float]:
    """Takes steps from a state on, for so many seconds or to the end of the epoch; what each took with its images.

    The first one is not counted where there are more: its wait for images comes once in an epoch.
    """
    times: list[float] = []
    trainer.state = replace(state, progress=replace(state.progress))
    begun = last = time.perf_counter()
    for batch in trainer.train.set_epoch(state.epoch, state.progress.seen):
        trainer.step(batch)
        if trainer.state.step % trainer.opt.print_freq == 0 or seconds == 0:
            trainer.record_steps()
        synchronize(trainer.task.device.device)
        now = time.perf_counter()
        times.append(now - last)
        last = now
        if now - begun > seconds and (len(times) > FEWEST or not seconds):
            break
    return times[1:] or times


def bounds(times: list[float]) -> tuple[float, float]:
    """The means of the fastest and the slowest of BLOCKS parts in a row."""
    cuts = [round(len(times) * i / BLOCKS) for i in range(BLOCKS + 1)]
    means = [statistics.fmean(times[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]
    return min(means), max(means)


def time_of_first_batch(loader: EpochLoader) -> float:
    begun = time.perf_counter()
    next(iter(loader.set_epoch(0)), None)
    return time.perf_counter() - begun


def measure_epoch_end(trainer: Trainer) -> EpochEnd:
    """What follows an epoch's steps, once; the validation on as many images as time allows."""
    part, folder = Beginning(trainer.val), trainer.run.folder
    begun = time.perf_counter()
    trainer.save()
    saving = time.perf_counter() - begun
    time_of_first_batch(trainer.val)  # starts the processes that read
    trainer.val, begun = part, time.perf_counter()
    try:
        trainer.end_epoch()
    except NonFiniteError:  # a metric of some images, as of a class that is not among them
        if part.seen == len(part.items):
            raise
    scale, after = len(part.items) / part.seen, time.perf_counter() - part.read - saving
    # with a judge as many images are generated, however few real ones there are
    validation = (part.read - begun) * scale + max(after, 0) * (1 if trainer.opt.judge else scale)
    pictures = sum(path.stat().st_size for path in folder.glob("samples/*_[0-9]*.png"))
    return EpochEnd(validation, saving, (folder / "last.pth").stat().st_size, pictures)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU, or of this process without those that read images; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def all_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else provenance.memory() or 0


def mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
