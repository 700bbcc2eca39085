"""The training loop: epochs, steps, the record, saving, stopping. What a step does is up to the task.

All that resuming a training needs is in TrainerState and in the task's own state, and every random number is keyed: the
order of the images and their augmentation by (seed, epoch, draw), what a step draws by (seed, step). So a training
that was stopped anywhere ends with the same weights, bit for bit.
"""

import bdb
import sys
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from config import Config
from data.loaders import Batch, EpochLoader
from engine.device import oom_as_failure
from engine.state import EpochProgress, TrainerState
from engine.stop_control import StopControl, open_debugger
from engine.tasks.base import NonFiniteError, Task, buffers_of, put_back
from engine.trace import first_not_finite
from engine.validation import checksum, not_finite, validate
from engine.watch import Watch
from runs.run import Run
from utils import checkpoints, pictures, world
from utils.errors import RunError, Stopped
from utils.progress import Progress
from utils.text import counted, fitted, in_short, printable

MAX_SKIPPED = 20  # steps in a row that may be left out before there is no sense in training on
PREVIEWED = 64  # augmented images in a picture


class Trainer:
    """One training: `Trainer(task, train, val, run, opt, metadata).fit()`.

    Args:
        metadata: what each checkpoint says of itself (model, classes, preprocess, config, ...).
        state: where it is resumed.
    """

    def __init__(
        self,
        task: Task,
        train: EpochLoader,
        val: EpochLoader,
        run: Run,
        opt: Config,
        metadata: dict[str, Any],
        state: TrainerState | None = None,
    ) -> None:
        self.task, self.train, self.val, self.run, self.opt, self.metadata = task, train, val, run, opt, metadata
        self.messages = task.messages(task)
        self.state = state or TrainerState()
        self.stops = StopControl(run.folder, run.log, self.save_as_asked)
        self.pending_steps: list[tuple[int, float, dict]] = []  # steps that are not yet in the record
        self.watch = Watch(task.net, opt.print_freq if opt.watch else 0)
        self.savable = True  # not in the middle of a step, and not once the numbers are not finite
        self.saved = (self.state.epoch, self.state.step) if self.state.step else None

    def fit(self) -> TrainerState:
        """Trains until opt.max_epoch epochs are done; after each, validates, records and saves.

        Raises:
            Stopped: the user stops it; it is saved.
            UsageError, RunError: an image, the machine or the numbers fail; it is saved unless a step was cut off.
        """
        self.state.watch(self.opt.monitor or self.task.monitor)
        self.run.log_net(self.task.net)
        with self.stops:
            try:
                while self.state.epoch < self.opt.max_epoch:
                    self.train_epoch()
                    self.end_epoch()
                self.run.keep_only(0)
            except bdb.BdbQuit:
                stopped = Stopped("the debugger", 130)
                self.leave(stopped)
                raise stopped from None
            except BaseException as e:
                self.leave(e)
                raise
        return self.state

    def report_lr(self) -> None:
        """Says at which learning rate a run goes on whose schedule has changed, as by another --max-epoch."""
        before = self.task.lr()
        self.set_progress()
        self.run.log(f"learning rate: {before:.3g} before, {self.task.lr():.3g} now")

    def set_progress(self) -> None:
        state = self.state
        self.task.set_progress((state.epoch + state.progress.seen / len(self.train.items)) / self.opt.max_epoch)

    def train_epoch(self) -> None:
        """The rest of an epoch's steps."""
        state, progress, opt = self.state, self.state.progress, self.opt
        bar = Progress(f"epoch {state.epoch + 1}/{opt.max_epoch}", len(self.train.items), progress.seen)
        last_shown = last_time = time.monotonic()
        for batch in self.stops.interruptible(self.train.set_epoch(state.epoch, progress.seen)):
            self.step(batch)
            bar.update(len(batch))
            progress.seconds, last_time = progress.seconds + time.monotonic() - last_time, time.monotonic()
            # Reading a metric waits for the GPU: done every print_freq steps, and for slow steps once a second.
            if state.step % opt.print_freq == 0 or time.monotonic() - last_shown > 1:
                self.record_steps()
                bar.show(**progress.means())
                last_shown = time.monotonic()
            if state.step % opt.save_every == 0:
                self.save()
        bar.close()
        self.record_steps()

    def step(self, batch: Batch) -> None:
        """One training step, counted; its metrics wait in `pending_steps`."""
        task, opt, state = self.task, self.opt, self.state
        self.savable = False
        if state.step == 0 and self.run.keeps_pictures:
            shown = world.gathered([task.preview(batch)[batch.counting]], [batch.positions])
            self.run.picture("augmented", pictures.grid(shown[:PREVIEWED].numpy()))
        self.seed_step()
        self.set_progress()
        lr, metrics, buffers = task.lr(), {}, buffers_of(task.net) if world.now.size > 1 else []
        try:
            with oom_as_failure(opt, opt.image_size), self.watch.step(state.step + 1, len(batch), lr):
                metrics = task.train_step(batch)
        except NonFiniteError as e:
            self.skip(batch, lr, str(e))
        except world.LostError:  # before any weight was changed
            put_back(buffers)
            self.savable = not task.steps_several_times
            raise
        self.pending_steps.append((state.step + 1, lr, metrics))
        state.count_step(lr, len(batch), batch.bad, metrics)
        self.savable = True
        if state.step % opt.print_freq == 0 and self.stops.debugger_wanted(opt.debug_file):
            # at hand in the debugger, as in the book (6.2)
            model, optimizer, loss = task.net, getattr(task, "optimizer", None), metrics.get("loss")  # noqa: F841
            with world.only_first(f"debugger/{state.step}") as mine:
                if mine:
                    open_debugger(sys._getframe())
            del model, optimizer, loss

    def seed_step(self) -> None:
        """What the next step draws depends on its number alone."""
        torch.manual_seed(zlib.crc32(f"{self.opt.seed}/{self.state.step}".encode()))

    def skip(self, batch: Batch, lr: float, what: str) -> None:
        """Reports a step that has no finite numbers, and ends the training unless such steps are to be skipped."""
        step, skipped = self.state.step + 1, self.state.progress.skipped
        indices = batch.shard.indices if batch.shard else batch.indices.tolist()
        names = ", ".join(printable(self.train.items[i][0]) for i in indices)
        more = "" if self.opt.watch else ", --watch names the layer"
        if self.opt.watch:
            self.seed_step()
            what += f"; {first_not_finite(self.task, batch)}"
        line = f"step {step} (epoch {self.state.epoch + 1}, lr {lr:.3g}): {what}; its batch: {names}"
        if self.opt.on_nan == "stop":
            raise RunError(f"{line}. {self._remedy()}; --on-nan=skip leaves such steps out{more}")
        self.run.log(f"skipped {line}")
        skipped.append(step)
        if skipped[-MAX_SKIPPED:] == list(range(step - MAX_SKIPPED + 1, step + 1)):
            raise RunError(f"{MAX_SKIPPED} steps in a row are not finite. {self._remedy()}")

    def _remedy(self) -> str:
        """What to do where the numbers are not finite: resuming may lead there again."""
        best = self.run.folder / "best.pth"
        start = f", as from the best epoch: --load-path={best}" if best.is_file() else ""
        return f"A lower --lr helps most often{start}"

    def record_steps(self) -> None:
        """Writes the metrics of the steps since the last call into the record."""
        while self.pending_steps:
            step, lr, metrics = self.pending_steps[0]
            values = {name: float(value) for name, value in metrics.items()} or {"skipped": True}
            self.run.log_event("step", epoch=self.state.epoch + 1, step=step, lr=lr, **values)
            del self.pending_steps[0]
            while self.watch.pending and self.watch.pending[0][0] <= step:
                step, columns = self.watch.pending[0]
                self.run.log_event("watch", epoch=self.state.epoch + 1, step=step, **columns)
                del self.watch.pending[0]

    def end_epoch(self) -> None:
        """Validates; one epoch into the record, the pictures and a line on the terminal; saves."""
        state, done, start = self.state, self.state.progress, time.monotonic()
        if not done.sums:
            raise RunError(f"no step of epoch {state.epoch + 1} had finite numbers. {self._remedy()}")
        self.task.final = state.epoch + 1 == self.opt.max_epoch
        try:
            metrics, bad = validate(self.task, self.val, self.stops.interruptible)
        except NonFiniteError as e:
            self.savable = False
            raise RunError(f"validation after epoch {state.epoch + 1} (lr {done.lr:.3g}): {e}. {self._remedy()}") from e
        means, progress = done.means(), (state.epoch + 1) / self.opt.max_epoch
        warning = None if state.warned else self.messages.diagnose(means, metrics, progress)
        self.task.end_epoch(metrics)
        self.check_alike()
        done.bad += bad
        self.state = replace(
            state,
            epoch=state.epoch + 1,
            progress=EpochProgress(),
            metrics=metrics,
            warned=state.warned or bool(warning),
        )
        self.state.update_best(self.task.metric_modes())
        self.report(done, means, done.seconds + time.monotonic() - start)
        for line in filter(None, (warning, self.watch.diagnose())):
            self.run.log(f"warning: {line}")
        self.save()

    def check_alike(self) -> None:
        """Ends the training where the weights of a process are no longer, bit for bit, those of process 0.

        As they would where the step of a task does not add up the gradients, or a memory is faulty.
        """
        if world.now.size == 1:
            return
        sums = world.objects_from_each(checksum(self.task.net))
        if other := [world.now.name(rank) for rank, one in enumerate(sums) if one != sums[0]]:
            raise RunError(
                f"after epoch {self.state.epoch + 1} the weights of {', '.join(other)} are not those of process 0: its "
                "memory or its kind of processor differs, or the task's step does not add up all gradients"
            )

    def report(self, done: EpochProgress, means: dict[str, float], seconds: float) -> None:
        """One epoch into the record, the pictures, and a line for the terminal."""
        state, run, rate = self.state, self.run, done.seen / max(done.seconds, 1e-9)
        train = {f"train_{name}": value for name, value in means.items()}
        val = {f"val_{name}": value for name, value in state.metrics.items()}
        bad = {"bad_images": done.bad} if done.bad else {}
        run.log_event(
            "epoch", epoch=state.epoch, step=state.step, lr=done.lr, **train, **val, **bad, rate=rate, seconds=seconds
        )
        for name, picture in self.task.samples().items():
            run.picture(name, picture, state.epoch)
        run.log_net(self.task.net)
        head = f"epoch {state.epoch}/{self.opt.max_epoch}{'*' if state.is_best else ' '}"
        parts, extra = self.messages.epoch(means, state.metrics), [f"lr {done.lr:.2g}", f"{rate:.0f} img/s"]
        left = f"{in_short(seconds * (self.opt.max_epoch - state.epoch))} left"
        run.log(fitted(head, parts, extra, left if state.epoch < self.opt.max_epoch else ""), best=state.is_best)
        for count, noun, what, items in (
            (len(done.skipped), "step", "left out", map(str, done.skipped)),
            (len(done.bad), "image", "replaced by another of its class", done.bad),
        ):
            if count:
                run.log(f"{counted(count, noun)} {what}: {'; '.join(items)}")

    def save(self) -> None:
        """Saves all that resuming needs; the record comes first, so that it never lacks a step that is saved.

        Raises:
            RunError: the weights are not finite, or the disk is full; the checkpoint before stays the last one.
        """
        state = self.state
        self.record_steps()
        task_state = self.task.state_dict()
        if name := not_finite(task_state):
            self.savable = False
            raise RunError(f"after step {state.step} the weights of {name} are not finite. {self._remedy()}")
        checkpoint = {
            "metadata": self.metadata,
            "net": task_state.pop("net"),
            "task": task_state,
            "trainer": state.state_dict(),
        }
        self.run.save(checkpoint, state.step, self.opt.keep, better=state.is_best)
        self.saved = (state.epoch, state.step)

    def save_as_asked(self) -> None:
        self.save()
        self.run.log(f"saved at step {self.state.step}, as asked by {self.run.folder / 'SAVE'}")

    def leave(self, e: BaseException) -> None:
        """What is done when the training ends before its time: saves it, unless a step was cut off, and says so."""
        state, run = self.state, self.run
        where = f"step {state.step} (epoch {state.epoch + 1} of {self.opt.max_epoch})"
        with suppress(RunError):  # the disk may be full: then the last checkpoint counts
            run.log_text(f"{type(e).__name__}: {e}")
            if self.savable and self.saved != (state.epoch, state.step):
                self.save()
        what = f"stopped by {e} at {where}" if isinstance(e, Stopped) else f"ended at {where}"
        saved = checkpoints.saved_in(run.folder)
        with suppress(RunError):
            if not saved:
                run.log(f"{what}; nothing was saved before. To start again: {run.how_to_resume}")
            elif self.saved == (state.epoch, state.step) and self.savable:
                run.log(f"{what}, saved as {saved[0]}. To resume: {run.how_to_resume}")
            else:
                run.log(f"{what}; the last good checkpoint is {saved[0]}. To resume from it: {run.how_to_resume}")
