"""Where the time of a training step goes: `train --profile`.

A few steps are timed part by part, the next few recorded operator by operator (torch.profiler). The parts are found by
hooks that torch offers for all modules and optimizers, so a task needs to know nothing of it. On a GPU each part
waits for the GPU's work; else it would be counted where something waits for it later. Before and after these steps
nothing is hooked.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile, record_function

from data.batch import Batch
from data.loaders import EpochLoader
from engine.device import synchronize
from engine.loop import Trainer
from engine.profile_report import PARTS, operator_lines, part_lines, write_trace
from utils import files
from utils.text import counted

WARM_UP, TIMED, TRACED = 5, 10, 5  # steps
WAIT, COPY, FORWARD, BACKWARD, OPTIMIZER, REST, BETWEEN = PARTS


class Clock:
    """Seconds by part. A part inside of another one counts for itself alone, so that all add up to the whole."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.stack: list[tuple[str, record_function]] = []
        self.last: float | None = None  # None: it stands still

    def enter(self, part: str) -> None:
        self._charge()
        name = record_function(part)
        name.__enter__()
        self.stack.append((part, name))

    def leave(self) -> None:
        if self.stack:
            self._charge()
            self.stack.pop()[1].__exit__(None, None, None)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def start(self) -> None:
        self.last = self._now()

    def stop(self) -> None:
        self._charge()
        self.last = None

    def _charge(self) -> None:
        if self.last is not None:
            now = self._now()
            self.seconds[self.stack[-1][0] if self.stack else BETWEEN] += now - self.last
            self.last = now

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


class TimedBatch(Batch):
    """A batch whose way to the device is timed."""

    clock: Clock

    def to(self, device: torch.device) -> Batch:
        with self.clock.part(COPY):
            return Batch(self.images, self.labels, self.indices, self.bad, self.shard).to(device)


class Profiler(EpochLoader):
    """Stands between a trainer and its training images: `with Profiler(trainer): trainer.fit()`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.loader = trainer, trainer.train
        self.items, self.batch_sampler = self.loader.items, self.loader.batch_sampler
        self.clock = Clock(trainer.task.device.device)
        steps = len(self.batch_sampler) * (trainer.opt.max_epoch - trainer.state.epoch)
        self.warm_up, self.traced = min(WARM_UP, steps // 4), min(TRACED, -(-steps // 4))
        self.timed = max(min(TIMED, steps - self.warm_up - self.traced), 0)
        self.step, self.done = 0, False
        self.timed_seconds: dict[str, float] = {}
        self.hooks = ExitStack()
        self.trace: Any = None

    def __enter__(self) -> "Profiler":
        self.trainer.train = self
        return self

    def __exit__(self, *exception: object) -> None:
        self.trainer.train = self.loader
        self._end()

    def set_epoch(self, epoch: int, start: int = 0) -> "EpochLoader":
        self.loader.set_epoch(epoch, start)
        return self

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        while not self.done:
            self._next_step()
            if self.step <= self.warm_up or self.done:
                batch = next(batches, None)
            else:
                with self.clock.part(WAIT):
                    batch = next(batches, None)
            if batch is None:  # what follows is the validation
                self.step -= 1
                self.clock.stop()
                return
            yield self._timed(batch)
        yield from batches

    def _timed(self, batch: Batch) -> Batch:
        if self.done or self.step <= self.warm_up:
            return batch
        timed = TimedBatch(batch.images, batch.labels, batch.indices, batch.bad, batch.shard)
        timed.clock = self.clock
        return timed

    def _next_step(self) -> None:
        """The step before is over: hooks, records or ends, as it is time for."""
        behind, self.step = self.step, self.step + 1
        if behind == self.warm_up and not self.hooks_set:
            self._hook()
        if behind == self.warm_up + self.timed and self.trace is None:
            self.clock.stop()
            self.timed_seconds = dict(self.clock.seconds)
            self._start_trace()
        if behind == self.warm_up + self.timed + self.traced:
            self._end()
        elif behind >= self.warm_up and self.clock.last is None:
            self.clock.start()

    @property
    def hooks_set(self) -> bool:
        return "train_step" in vars(self.trainer.task)

    def _hook(self) -> None:
        clock, task, undo = self.clock, self.trainer.task, self.hooks
        depth = [0]

        def before(*_: Any) -> None:
            depth[0] += 1
            if depth[0] == 1 and _inside(clock, REST, OPTIMIZER):
                clock.enter(FORWARD)

        def after(*_: Any) -> None:
            depth[0] -= 1
            if depth[0] == 0 and _inside(clock, FORWARD):
                clock.leave()

        for hook in (
            modules.register_module_forward_pre_hook(before),
            modules.register_module_forward_hook(after, always_call=True),
            register_optimizer_step_pre_hook(lambda *_: clock.enter(OPTIMIZER)),
            register_optimizer_step_post_hook(lambda *_: clock.leave()),
        ):
            undo.callback(hook.remove)
        for name in ("backward", "grad"):
            original = getattr(torch.autograd, name)
            undo.callback(setattr, torch.autograd, name, original)
            setattr(torch.autograd, name, _in_part(clock, BACKWARD, original))
        task.train_step = _in_part(clock, REST, task.train_step)  # type: ignore[method-assign]
        undo.callback(delattr, task, "train_step")

    def _start_trace(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else its library talks on the terminal
        kinds = {ProfilerActivity.CPU} | ({ProfilerActivity.CUDA} if self.clock.device.type == "cuda" else set())
        self.trace = profile(activities=kinds)
        self.trace.start()

    def _end(self) -> None:
        """Takes off all hooks, and writes what was measured; a failure costs the training a line."""
        if self.done:
            return
        self.done = True
        self.clock.stop()
        self.hooks.close()
        if self.trace is not None:
            self.trace.stop()
        steps = min(self.step - 1 if self.step else 0, self.warm_up + self.timed + self.traced) - self.warm_up
        try:
            self._report(max(steps, 0))
        except Exception as e:
            self.trainer.run.log(f"warning: no profile: {type(e).__name__}: {e}")

    def _report(self, steps: int) -> None:
        run = self.trainer.run
        if self.trace is None:
            run.log("--profile: the training ended before a step could be profiled")
            return
        timed, seconds = self.timed, self.timed_seconds
        if not timed:  # a run of two steps or fewer
            timed, seconds = steps, self.clock.seconds
        folder = run.folder / "profile"
        folder.mkdir(exist_ok=True)
        lines = [
            *part_lines(seconds, timed),
            "",
            *operator_lines(self.trace, max(steps - self.timed, 1), self.clock.device),
        ]
        path = write_trace(self.trace, folder)
        size = path.stat().st_size / 2**20
        lines += ["", f"{path}: {size:.1f} MiB; open it in chrome://tracing (offline) or ui.perfetto.dev"]
        with files.atomic_write(folder / "profile.txt") as file:
            file.write("\n".join(lines) + "\n")
        if self.timed < TIMED:
            run.log(f"--profile: a run this short gives {counted(timed, 'step')} to time, not {TIMED}")
        for line in lines:
            run.log(line)


def _inside(clock: Clock, *parts: str) -> bool:
    return bool(clock.stack) and clock.stack[-1][0] in parts


def _in_part(clock: Clock, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.part(part):
            return function(*args, **kwargs)

    return timed
