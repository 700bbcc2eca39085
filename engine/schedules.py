"""Learning rate schedules, by name."""

import math

from torch import optim

WARM_UP, START, END = 0.3, 1 / 25, 1 / 250_000  # of onecycle, as torch's OneCycleLR has them


class Schedule:
    """The learning rate's way down, from `lr` at its highest.

    cosine, linear, onecycle (Smith, Topin 2017, arXiv:1708.07120) and constant depend on nothing but how much of the
    training is done. plateau: times `lr_decay` whenever the validation loss is above the one before (book,
    chapter 6; its code follows the training loss). All but onecycle rise in the first `warmup` of the training.
    """

    def __init__(self, optimizer: optim.Optimizer, name: str, lr: float, lr_decay: float, warmup: float = 0) -> None:
        self.optimizer, self.name, self.lr, self.lr_decay = optimizer, name, lr, lr_decay
        self.warmup = WARM_UP if name == "onecycle" else warmup
        self.previous_loss, self.factor = float("inf"), 1.0

    def set(self, done: float) -> None:
        """Sets the optimizer's learning rate for the next step; `done` in [0, 1] of the training lies behind."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.factor * self._shape(done)

    def end_epoch(self, val_loss: float) -> None:
        if self.name == "plateau" and val_loss > self.previous_loss:
            self.factor *= self.lr_decay
        self.previous_loss = val_loss

    def rises(self, done: float) -> bool:
        """Whether the learning rate is still on its way up."""
        return done < self.warmup

    def _shape(self, done: float) -> float:
        """How much of the highest learning rate is left."""
        if self.name == "onecycle":
            return _onecycle(done)
        if done < self.warmup:
            return START + (1 - START) * done / self.warmup
        return SHAPES[self.name]((done - self.warmup) / (1 - self.warmup))

    def state_dict(self) -> dict:
        return {"previous_loss": self.previous_loss, "factor": self.factor}

    def load_state_dict(self, state: dict) -> None:
        self.previous_loss, self.factor = state["previous_loss"], state["factor"]


def _between(start: float, end: float, part: float) -> float:
    """From `start` to `end` along half a cosine; `part` in [0, 1]."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


def _onecycle(done: float) -> float:
    if done < WARM_UP:
        return _between(START, 1, done / WARM_UP)
    return _between(1, END, (done - WARM_UP) / (1 - WARM_UP))


# How much of the highest learning rate is left where `done` in [0, 1] of the way down lies behind.
SHAPES = {
    "plateau": lambda done: 1.0,
    "constant": lambda done: 1.0,
    "cosine": lambda done: _between(1, 0, done),
    "linear": lambda done: 1 - done,
}
