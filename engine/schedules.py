"""Learning rate schedules, by name: each function gives the part of the highest learning rate that is in force.

A schedule is a function of `progress` in [0, 1], the part of its way that lies behind. Another one is another public
function here, or one of the user's own: `--scheduler=path/to/file.py:function`.
"""

import math
from collections.abc import Callable
from numbers import Real

from torch import optim

from utils import registry
from utils.errors import UsageError

WARM_UP, START, END = 0.3, 1 / 25, 1 / 250_000  # of onecycle, as torch's OneCycleLR has them


def plateau(progress: float) -> float:
    """Constant; times `lr_decay` whenever the validation loss is above that of the epoch before (book, chapter 6)."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine, to 0 (Loshchilov, Hutter 2016, arXiv:1608.03983)."""
    return _anneal(1, 0, progress)


def linear(progress: float) -> float:
    """A straight line to 0."""
    return 1 - progress


def onecycle(progress: float) -> float:
    """Up for the first 0.3 of the training, then down to almost 0 (Smith, Topin 2017, arXiv:1708.07120)."""
    if progress < WARM_UP:
        return _anneal(START, 1, progress / WARM_UP)
    return _anneal(1, END, (progress - WARM_UP) / (1 - WARM_UP))


def constant(progress: float) -> float:
    """The same throughout."""
    return 1.0


def _anneal(start: float, end: float, part: float) -> float:
    """From `start` to `end` along half a cosine; `part` in [0, 1]."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


def get(name: str) -> Callable[[float], float]:
    """The schedule of that name.

    Raises:
        UsageError: it is no function, or gives anything but a finite number from 0 on.
    """
    schedule = registry.load_callable(name, "scheduler") if registry.is_external(name) else globals()[name]
    for progress in (0.0, 0.5, 1.0):
        value = schedule(progress)
        if not (isinstance(value, Real) and 0 <= float(value) < math.inf):
            raise UsageError(
                f"--scheduler={name} gives {value!r} for a progress of {progress}: expected a number from 0 on"
            )
    return schedule


class Schedule:
    """Sets the learning rates of an optimizer's parameter groups.

    Each group keeps its ratio to the option `lr`: groups that a model's `get_optimizer` made with rates of their own
    (book, 4.3) stay apart by the same factor, and a group at 0 stays at 0. A rate that is changed by hand between two
    steps is in force at once, and falls from there on as the schedule says.

    Args:
        name: a function of this file, or an external one.
        lr: the learning rate at its highest.
        warmup: part of the training in which the rate rises from 1/25 of it; onecycle has its own.
    """

    def __init__(self, optimizer: optim.Optimizer, name: str, lr: float, lr_decay: float, warmup: float = 0) -> None:
        self.optimizer, self.name, self.lr, self.lr_decay = optimizer, name, lr, lr_decay
        self.shape, self.warmup = get(name), warmup
        self.ratios = [float(group["lr"]) / lr for group in optimizer.param_groups]
        self.previous_loss, self.factor, self.progress = float("inf"), 1.0, 0.0
        self.last_set: list[float] | None = None

    def set(self, progress: float) -> None:
        """Sets the learning rates of the next step; `progress` in [0, 1] of the training lies behind."""
        self.progress = progress
        scale = self.lr * self.factor * self._shape(progress)
        groups = self.optimizer.param_groups
        for i, group in enumerate(groups):
            if self.last_set and float(group["lr"]) != self.last_set[i]:  # by hand, as in the debugger
                self.ratios[i] = float(group["lr"]) / scale if scale else self.ratios[i]
            group["lr"] = self.ratios[i] * scale
        self.last_set = [float(group["lr"]) for group in groups]

    def end_epoch(self, val_loss: float) -> None:
        rising = self.warming_up(self.progress)  # then a loss that rises says nothing of a rate that is too high
        if self.name == "plateau" and val_loss > self.previous_loss and not rising:
            self.factor *= self.lr_decay
        self.previous_loss = val_loss

    def warming_up(self, progress: float) -> bool:
        """Whether the learning rate is still rising."""
        return progress < (WARM_UP if self.shape is onecycle else self.warmup)

    def _shape(self, progress: float) -> float:
        if self.shape is onecycle:
            return onecycle(progress)
        if progress < self.warmup:
            return START + (1 - START) * progress / self.warmup
        return float(self.shape((progress - self.warmup) / (1 - self.warmup)))  # numpy's would not load again

    def state_dict(self) -> dict:
        return {"previous_loss": self.previous_loss, "factor": self.factor, "ratios": self.ratios}

    def load_state_dict(self, state: dict) -> None:
        self.previous_loss, self.factor = state["previous_loss"], state["factor"]
        if len(state.get("ratios", ())) == len(self.ratios):
            self.ratios = list(state["ratios"])
        self.last_set = None
