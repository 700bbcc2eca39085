"""What the loop trains. A task owns its nets, its optimizers and its step; the loop never looks inside."""

from collections.abc import Iterable

import numpy as np
import torch

from data.loaders import Batch


class Task:
    """A kind of training. To add one, derive from this class in a file of its own (see classify.py)."""

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimizer step, with forward and backward. Returns scalars as tensors: reading one waits for a GPU."""
        raise NotImplementedError

    def evaluate(self, batches: Iterable[Batch]) -> dict:
        """The figures of the validation part, as plain numbers and lists. More of `score` is better."""
        raise NotImplementedError

    def end_epoch(self, figures: dict) -> None:
        """Called after each evaluation; what follows the validation figures (the learning rate) moves here."""

    def summary(self, means: dict, figures: dict) -> str:
        """An epoch in a few words: the mean figures of its steps, and those of the evaluation after it."""
        raise NotImplementedError

    def pictures(self) -> dict[str, np.ndarray]:
        """{name: (H, W, 3) uint8}: what the last evaluation has to show."""
        return {}

    def lr(self) -> float:
        """The learning rate of the next step."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """Nets, optimizers, schedulers: all that training changes, as tensors and plain types."""
        raise NotImplementedError

    def load_state_dict(self, state: dict) -> None:
        raise NotImplementedError
