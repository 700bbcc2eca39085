"""The training loop: epochs, steps, the record, saving, stopping. What a step does is the task's business.

Where a training stands is all in State and the task's own state, and every random number is keyed: the order of the
images and their augmentation by (seed, epoch, index), what a step draws by (seed, step). So a training that was
stopped anywhere goes on to the same weights, bit for bit.
"""

import bdb
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

import torch

from config import Config
from data.loaders import Batch, EpochLoader, collect_bad_images
from engine.device import oom_as_failure
from engine.stop_control import StopControl
from engine.tasks.base import NonFiniteError, Task
from runs.run import Run
from utils import checkpoints
from utils.errors import RunError, Stopped
from utils.files import printable
from utils.progress import Progress, with_progress

MAX_SKIPPED = 20  # steps in a row that may be left out before there is no sense in going on


@dataclass
class EpochProgress:
    """The epoch under way: images behind it, sums of its figures by image, seconds, and what has to be told of it."""

    seen: int = 0
    lr: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    seconds: float = 0.0
    bad: list[str] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.counted for name, total in self.sums.items()}


@dataclass
class State:
    """Where a training stands: whole epochs and steps done, the epoch under way, the best score and its epoch."""

    epoch: int = 0
    step: int = 0
    now: EpochProgress = field(default_factory=EpochProgress)
    best_score: float = float("-inf")
    best_epoch: int = 0
    metrics: dict = field(default_factory=dict)
    warned: bool = False

    @property
    def is_best(self) -> bool:
        """Whether this is the end of the best epoch so far."""
        return 0 < self.best_epoch == self.epoch and not self.now.seen

    def state_dict(self) -> dict:
        now = asdict(self.now)
        return asdict(self) | {"now": now | {"sums": {name: float(total) for name, total in now["sums"].items()}}}

    @classmethod
    def of(cls, content: dict | None) -> "State":
        """The state that a checkpoint's `content` holds."""
        content = content or {}
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        return cls(**known | {"now": EpochProgress(**content.get("now", {}))})


class Trainer:
    """One training: `Trainer(task, loaders, run, opt, metadata).fit()`.

    Args:
        metadata: what each checkpoint says of itself beside the states (model, classes, preprocess, config, ...).
        state: where it goes on.
    """

    def __init__(
        self,
        task: Task,
        train: EpochLoader,
        val: EpochLoader,
        run: Run,
        opt: Config,
        metadata: dict,
        state: State | None = None,
    ) -> None:
        self.task, self.train, self.val, self.run, self.opt, self.metadata = task, train, val, run, opt, metadata
        self.state = state or State()
        self.stops = StopControl(run.folder, run.say, self.save_as_asked)
        self.pending_steps: list[tuple[float, dict]] = []  # steps that are not yet in the record
        self.in_step = False
        self.saved = (self.state.epoch, self.state.step) if self.state.step else None

    def fit(self) -> State:
        """Trains until opt.max_epoch epochs are done; after each, validates, records and saves.

        Raises:
            Stopped: the user stops it; it is saved.
            UsageError, RunError: an image, the machine or the numbers fail; it is saved where the step before was whole.
        """
        try:
            with self.stops:
                while self.state.epoch < self.opt.max_epoch:
                    self.train_epoch()
                    self.end_epoch()
            self.run.keep_only(0)
        except BaseException as e:
            self.leave(e)
            raise
        return self.state

    def train_epoch(self) -> None:
        """The rest of an epoch's steps."""
        state, now, opt = self.state, self.state.now, self.opt
        bar = Progress(f"epoch {state.epoch + 1}/{opt.max_epoch}", len(self.train.items), now.seen)
        last_look = last_time = time.monotonic()
        for batch in self.stops.interruptible(self.train.set_epoch(state.epoch, now.seen)):
            figures = self.step(batch)
            bar.update(len(batch))
            now.seconds, last_time = now.seconds + time.monotonic() - last_time, time.monotonic()
            # Reading a figure waits for the GPU: done every print_freq steps, and for slow steps once a second.
            if state.step % opt.print_freq == 0 or time.monotonic() - last_look > 1:
                self.record_steps()
                bar.show(**now.means())
                last_look = time.monotonic()
            if state.step % opt.print_freq == 0 and self.stops.debugger_wanted(opt.debug_file):
                open_debugger(self.task, batch, figures)
            if state.step % opt.save_every == 0:
                self.save()
        bar.close()
        self.record_steps()

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One training step, and its figures, which are {} for a step that was skipped."""
        state, now = self.state, self.state.now
        self.in_step = True
        torch.manual_seed(zlib.crc32(f"{self.opt.seed}/{state.step}".encode()))
        self.task.schedule((state.epoch + now.seen / len(self.train.items)) / self.opt.max_epoch)
        lr = self.task.lr()
        try:
            with oom_as_failure(self.opt, self.opt.image_size):
                figures = self.task.train_step(batch)
        except NonFiniteError as e:
            figures = {}
            self.skip(batch, lr, str(e))
        self.pending_steps.append((state.step + 1, lr, figures))
        now.lr = now.lr if now.seen else lr
        state.step, now.seen, now.bad = state.step + 1, now.seen + len(batch), now.bad + batch.bad
        if figures:
            now.counted += len(batch)
            now.sums = {name: now.sums.get(name, 0) + value * len(batch) for name, value in figures.items()}
        self.in_step = False
        return figures

    def skip(self, batch: Batch, lr: float, what: str) -> None:
        """Tells of a step that has no finite numbers, and ends the training unless such steps are to be skipped."""
        step, skipped = self.state.step + 1, self.state.now.skipped
        names = ", ".join(printable(self.train.items[i][0]) for i in batch.indices.tolist())
        line = f"step {step} (epoch {self.state.epoch + 1}, lr {lr:.3g}): {what} is not finite; its batch: {names}"
        if self.opt.on_nan == "stop":
            raise RunError(f"{line}. A lower --lr helps most often; --on-nan=skip leaves such steps out")
        self.run.say(f"skipped {line}")
        skipped.append(step)
        if skipped[-MAX_SKIPPED:] == list(range(step - MAX_SKIPPED + 1, step + 1)):
            raise RunError(f"{MAX_SKIPPED} steps in a row are not finite: lower --lr")

    def record_steps(self) -> None:
        """Writes the figures of the steps since the last call into the record."""
        while self.pending_steps:
            step, lr, figures = self.pending_steps[0]
            values = {name: float(value) for name, value in figures.items()} or {"skipped": True}
            self.run.record("step", epoch=self.state.epoch + 1, step=step, lr=lr, **values)
            del self.pending_steps[0]

    def end_epoch(self) -> None:
        """Validates; one epoch into the record, the pictures and a line on the terminal; saves."""
        state, now, task, start = self.state, self.state.now, self.task, time.monotonic()
        if not now.sums:
            raise RunError(f"no step of epoch {state.epoch + 1} had finite numbers: lower --lr")
        bad, progress = [], ("validating", len(self.val.items))
        with oom_as_failure(self.opt, self.opt.image_size):
            figures = task.evaluate(
                collect_bad_images(with_progress(self.stops.interruptible(self.val.set_epoch(0)), *progress), bad)
            )
        means, done = now.means(), (state.epoch + 1) / self.opt.max_epoch
        doubt = None if state.warned else task.doubt(means, figures, done)
        task.end_epoch(figures)
        now.bad += bad
        self.state = replace(
            state, epoch=state.epoch + 1, now=EpochProgress(), metrics=figures, warned=state.warned or doubt is not None
        )
        if figures["score"] > state.best_score:
            self.state.best_score, self.state.best_epoch = figures["score"], self.state.epoch
        self.report(now, means, now.seconds + time.monotonic() - start)
        if doubt:
            self.run.say(f"warning: {doubt}")
        self.save()

    def report(self, done: EpochProgress, means: dict, seconds: float) -> None:
        """One epoch into the record, the pictures, and a line for the terminal."""
        state, run, rate = self.state, self.run, done.seen / max(done.seconds, 1e-9)
        train = {f"train_{name}": value for name, value in means.items()}
        val = {f"val_{name}": value for name, value in state.metrics.items()}
        told = {"bad_images": done.bad} if done.bad else {}
        run.record(
            "epoch", epoch=state.epoch, step=state.step, lr=done.lr, **train, **val, **told, rate=rate, seconds=seconds
        )
        for name, picture in self.task.pictures().items():
            run.picture(name, picture, state.epoch)
        epoch = f"epoch {state.epoch}/{self.opt.max_epoch}"
        summary = self.task.summary(means, state.metrics)
        run.say(f"{epoch}  {summary}  lr {done.lr:.3g}  {rate:.1f} img/s  {seconds:.0f} s")
        for count, what, items in (
            (len(done.skipped), "steps were skipped", map(str, done.skipped)),
            (len(done.bad), "images were replaced by others of their class", done.bad),
        ):
            if count:
                run.say(f"{count} {what}: {'; '.join(items)}")

    def save(self) -> None:
        """Saves all that going on needs; the record comes first, so that it never lacks a step that is saved."""
        state = self.state
        self.record_steps()
        content = {**self.metadata, **self.task.state_dict(), **state.state_dict()}
        self.run.save(content, state.step, self.opt.keep, better=state.is_best)
        self.saved = (state.epoch, state.step)

    def save_as_asked(self) -> None:
        self.save()
        self.run.say(f"saved at step {self.state.step}, as asked by {self.run.folder / 'SAVE'}")

    def leave(self, e: BaseException) -> None:
        """What is done when the training ends before its time: saves it, unless a step was cut off, and says so."""
        state, run = self.state, self.run
        where = f"step {state.step} (epoch {state.epoch + 1} of {self.opt.max_epoch})"
        with suppress(RunError):  # the disk may be full: then the last checkpoint counts
            run.note(f"{type(e).__name__}: {e}")
            if not self.in_step and self.saved != (state.epoch, state.step):
                self.save()
        what = f"stopped by {e} at {where}" if isinstance(e, Stopped) else f"ended at {where}"
        saved = checkpoints.saved_in(run.folder)
        with suppress(RunError):
            if not saved:
                run.say(f"{what}; nothing was saved before. To start again: {run.how_to_resume}")
            elif self.saved == (state.epoch, state.step) and not self.in_step:
                run.say(f"{what}, saved as {saved[0]}. To go on: {run.how_to_resume}")
            else:
                run.say(f"{what}; the last good checkpoint is {saved[0]}. To go on from it: {run.how_to_resume}")


def open_debugger(task: Task, batch: Batch, figures: dict[str, torch.Tensor]) -> None:
    """Opens a debugger, ipdb where it is installed, with the batch, the net and the loss at hand (book, chapter 6)."""
    net, loss = getattr(task, "net", None), figures.get("loss")  # noqa: F841 - for the person at the debugger
    try:
        import ipdb as debugger
    except ImportError:
        import pdb as debugger
    try:
        debugger.set_trace()
    except bdb.BdbQuit:
        raise Stopped("the debugger", 130) from None
