"""What the loop trains. A task owns its nets, its optimizers and its step; the loop never inspections inside."""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from config import Config
from data.image_data import Items
from data.loaders import Batch
from data.transforms import Preprocess
from engine.device import Device
from models.basic_module import BasicModule
from utils import registry
from utils.errors import UsageError

Buffers = list[tuple[torch.Tensor, torch.Tensor]]  # each with what it was before


class NonFiniteError(Exception):
    """A step's loss or gradients hold NaN or infinity; the optimizer has not stepped."""


class Task:
    """A kind of training. To add one, derive from this class in a file of its own; a model names its task by `task`.

    Args:
        net: the model.
        classes: of the data set.
        preprocess: what its images went through.
        opt: the options.
        items: what it is to learn from; None where it is only to be eval_model: then it needs no optimizer.
    """

    def __init__(
        self,
        net: BasicModule,
        classes: list[str],
        preprocess: Preprocess,
        device: Device,
        opt: Config,
        items: Items | None = None,
    ) -> None:
        self.classes, self.preprocess, self.device, self.opt = classes, preprocess, device, opt
        self.net = net.to(device.device, memory_format=device.memory_format)
        self.begin(items)

    def begin(self, items: Items | None) -> None:
        """What else it holds; what learning takes only where there are `items`."""
        raise NotImplementedError

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimizer step, with forward and backward. Returns scalars as tensors: reading one waits for a GPU.

        What it draws at random comes from torch's global generator, which the loop seeds for each step.

        Raises:
            NonFiniteError: says which tensors; nothing that training changes has changed.
        """
        raise NotImplementedError

    def evaluate(self, batches: Iterable[Batch]) -> dict:
        """The figures of the validation part, as plain numbers and lists. More of `score` is better."""
        raise NotImplementedError

    def schedule(self, done: float) -> None:
        """Called before each step: `done` in [0, 1) of the training lies behind. Sets the learning rate."""

    def end_epoch(self, figures: dict) -> None:
        """Called after each evaluation, with its figures."""

    def doubt(self, means: dict, figures: dict, done: float) -> str | None:
        """After an epoch: a warning in one line where the net does not seem to learn."""

    def summary(self, means: dict, figures: dict) -> str:
        """An epoch in a few words: the mean figures of its steps, and those of the evaluation after it."""
        raise NotImplementedError

    def table(self, figures: dict) -> str:
        """The figures of an evaluation, line by line."""
        raise NotImplementedError

    def praise(self, score: float) -> str:
        """The best score in a few words."""
        raise NotImplementedError

    def next_steps(self, folder: str) -> list[str]:
        """What to type after a training into `folder`."""
        raise NotImplementedError

    @staticmethod
    def tutorial_step(net: BasicModule, opt: Config) -> Callable[[torch.Tensor, torch.Tensor], None]:
        """For `bench`: the step of (images, labels) that the usual tutorial would write for this net."""
        raise NotImplementedError

    def predict(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
        """For `test`: yields each batch with its logits, (N, K) float32 on the CPU; one batch in memory at a time."""
        raise UsageError(f"{self.net.model_name} labels no images: it makes them; use generate")

    def generate(self) -> list[str]:
        """For `generate`: writes images as the options say; returns a line for each file or folder."""
        raise UsageError(f"{self.net.model_name} makes no images: it labels them; use test")

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
        """Takes up a state. What an option sets (learning rate, weight decay) stays as the option has it."""
        raise NotImplementedError


def named(name: str) -> type[Task]:
    """The task of that name, from its file in this folder."""
    entry = registry.scan(Path(__file__).parent, "Task", "engine.tasks")[name]
    return getattr(import_module(entry.module), name)


def buffers_of(net: torch.nn.Module, opt: Config) -> Buffers:
    """Copies of what a forward pass changes (BatchNorm's statistics), where a step may be left out."""
    return [(buffer, buffer.clone()) for buffer in net.buffers()] if opt.on_nan == "skip" else []


def check_finite(loss: torch.Tensor, net: torch.nn.Module, before: Buffers) -> None:
    """Call it between `backward` and the optimizer's step.

    Args:
        before: `buffers_of` the net before the step.

    Raises:
        NonFiniteError: the loss or a gradient is NaN or infinite; the buffers are as they were.
    """
    named = [(name, p.grad) for name, p in net.named_parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([grad for _, grad in named])
    if torch.isfinite(loss.detach() + norm):
        return
    names = [f"the gradient of {name}" for name, grad in named if not grad.isfinite().all()]
    names = ([f"the loss ({loss.item()})"] if not loss.isfinite() else []) + names
    if names:  # else only the sum of their squares is too large for float32
        for buffer, value in before:
            buffer.copy_(value)
        raise NonFiniteError(names[0] + (f", {names[1]}" if len(names) > 1 else "") + _more(len(names) - 2))


def _more(count: int) -> str:
    return f" and of {count} more" if count > 0 else ""
