"""The training loop: epochs, steps, the record, saving. What a step does is the task's business."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from config import Config
from data.loaders import Batch, Loader
from engine.task import Task
from utils import checkpoint
from utils.progress import Progress
from utils.run import Run


@dataclass
class State:
    """Where a training stands: whole epochs and steps done, the best score and its epoch."""

    epoch: int = 0
    step: int = 0
    best_score: float = float("-inf")
    best_epoch: int = 0


def fit(task: Task, train: Loader, val: Loader, run: Run, opt: Config, about: dict) -> State:
    """Trains `task` for opt.max_epoch epochs; after each, validates, records and saves.

    Args:
        about: what each checkpoint says of itself beside the states (model, classes, preprocess, config, ...).
    """
    state = State()
    while state.epoch < opt.max_epoch:
        start, lr = time.monotonic(), task.lr()
        means, rate = train_epoch(task, train, run, state, opt)
        state.epoch += 1
        figures = task.evaluate(watched(val.at(0), "validating"))
        task.end_epoch(figures)
        if better := figures["score"] > state.best_score:
            state.best_score, state.best_epoch = figures["score"], state.epoch
        report(task, run, state, opt, means, figures, lr=lr, rate=rate, seconds=time.monotonic() - start)
        save(task, run, state, about | {"metrics": figures}, better)
    return state


def train_epoch(task: Task, train: Loader, run: Run, state: State, opt: Config) -> tuple[dict[str, float], float]:
    """One pass over the training images. Returns the mean of each figure, by image, and images a second."""
    bar = Progress(f"epoch {state.epoch + 1}/{opt.max_epoch}", len(train.items))
    sums, waiting, last_look = {}, [], time.monotonic()
    for batch in train.at(state.epoch):
        lr = task.lr()
        figures = task.train_step(batch)
        state.step += 1
        for name, value in figures.items():
            sums[name] = sums.get(name, 0) + value * len(batch)
        waiting.append((state.step, lr, figures))
        bar.update(len(batch))
        # Reading a figure waits for the GPU: done every print_freq steps, and for slow steps once a second.
        if state.step % opt.print_freq == 0 or time.monotonic() - last_look > 1:
            record_steps(run, state.epoch + 1, waiting)
            bar.show(**{name: float(total) / bar.count for name, total in sums.items()})
            last_look = time.monotonic()
        if opt.debug_file and state.step % opt.print_freq == 0:
            maybe_debug(opt.debug_file, run, batch=batch, task=task, figures=figures)
    record_steps(run, state.epoch + 1, waiting)
    bar.close()
    return {name: float(total) / bar.count for name, total in sums.items()}, bar.rate


def record_steps(run: Run, epoch: int, waiting: list[tuple[int, float, dict[str, torch.Tensor]]]) -> None:
    """Writes the figures of the steps since the last call into the record, and empties `waiting`."""
    for step, lr, figures in waiting:
        run.record("step", epoch=epoch, step=step, lr=lr, **{name: float(v) for name, v in figures.items()})
    waiting.clear()


def watched(batches: Loader, title: str) -> Iterator[Batch]:
    """The batches, with a progress bar."""
    bar = Progress(title, len(batches.items))
    for batch in batches:
        yield batch
        bar.update(len(batch))
    bar.close()


def report(
    task: Task, run: Run, state: State, opt: Config, means: dict, figures: dict, lr: float, rate: float, seconds: float
) -> None:
    """One epoch into the record, the pictures, and one line for the terminal."""
    train = {f"train_{name}": value for name, value in means.items()}
    val = {f"val_{name}": value for name, value in figures.items()}
    run.record("epoch", epoch=state.epoch, step=state.step, lr=lr, **train, **val, rate=rate, seconds=seconds)
    for name, picture in task.pictures().items():
        run.picture(name, picture, state.epoch)
    epoch = f"epoch {state.epoch}/{opt.max_epoch}"
    run.say(f"{epoch}  {task.summary(means, figures)}  lr {lr:.3g}  {rate:.1f} img/s  {seconds:.0f} s")


def save(task: Task, run: Run, state: State, about: dict, better: bool) -> None:
    """Writes last.pth, and makes best.pth the same file where this epoch is the best so far."""
    rng = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}
    last = run.folder / "last.pth"
    checkpoint.write({**about, **task.state_dict(), **asdict(state), "rng": rng}, last)
    if better:
        checkpoint.link(last, run.folder / "best.pth")


def maybe_debug(path: str, run: Run, batch: Batch, task: Task, figures: dict) -> None:
    """Opens a debugger while the user's own file `path` exists (book, chapter 6), with the arguments at hand."""
    mine = os.path.exists(path) and (not hasattr(os, "getuid") or os.stat(path).st_uid == os.getuid())
    if mine and sys.stdin.isatty():
        run.say(f"{path} exists: here is the debugger; remove the file and type c to go on")
        breakpoint()
