"""What the loop trains. A task owns its nets, its optimizers and its step; the loop never looks inside."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from config import Config
from data.image_data import Items
from data.loaders import Batch
from data.transforms import Preprocess
from engine.device import Device
from engine.gradients import Gradients
from engine.messages import Messages
from utils import registry
from utils.errors import RunError, UsageError

FOLDER = Path(__file__).parent
Buffers = list[tuple[torch.Tensor, torch.Tensor]]  # each with what it was before


class NonFiniteError(RunError):
    """What a net gives holds NaN or infinity: in a step, before the optimizer has stepped, or in an evaluation.

    Args:
        what: "the loss".
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not finite")


class Task:
    """A kind of training: its step, and how the net is evaluated.

    To add one, derive from this class: in a file of this folder, or in the file of the model. A model names its task by
    the class attribute `task`.

    Attributes:
        option_groups: the groups of options that it reads beside those that every task reads: "optimization",
            "classification", "gan".
        monitor: the metric that the best epoch is chosen by, unless `--monitor` names another one.
        several_processes: whether its step and its evaluation are right where a process has a shard of each batch.
        messages: what the terminal says of its metrics.

    Args:
        net: the model.
        classes: of the data set.
        preprocess: what its images went through.
        opt: the options.
        items: what it is to learn from; None where it is only to be evaluated: then it needs no optimizer.
    """

    option_groups: tuple[str, ...] = ()
    monitor: str = "loss"
    several_processes = False
    steps_several_times = False  # whether a step changes the weights more than once, as that of LBFGS does
    messages: type[Messages] = Messages
    final = True  # whether it is evaluated for good, not between two epochs

    def __init__(
        self,
        net: nn.Module,
        classes: list[str],
        preprocess: Preprocess,
        device: Device,
        opt: Config,
        items: Items | None = None,
    ) -> None:
        self.classes, self.preprocess, self.device, self.opt = classes, preprocess, device, opt
        self.net: Any = net.to(device.device, memory_format=device.memory_format)  # type: ignore[call-overload]
        self.gradients = Gradients(net)
        self.setup(items)

    def setup(self, items: Items | None) -> None:
        """Makes what else it needs; optimizers and losses only where there are `items` to learn from."""

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimizer step, with forward and backward. Returns scalars as tensors: reading one waits for a GPU.

        Random numbers come from torch's global generator, which the loop seeds for each step.

        Raises:
            NonFiniteError: says which tensors; nothing that training changes has changed.
        """
        raise NotImplementedError

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """The metrics of the validation part, as plain numbers and lists.

        Raises:
            NonFiniteError: the net's output is NaN or infinite.
        """
        raise NotImplementedError

    def metric_modes(self) -> dict[str, str]:
        """{metric: "max" or "min"}: those that `--monitor` may name, and whether more or less of them is better."""
        return {"loss": "min"}

    def set_progress(self, progress: float) -> None:
        """Called before each step: `progress` in [0, 1) of the training lies behind. Sets the learning rate."""

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Called after each evaluation, with its metrics."""

    def predict(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
        """For `test`: yields each batch with its logits, (N, K) float32 on the CPU; one batch in memory at a time."""
        raise UsageError(self._lacks("test"))

    def generate(self) -> list[str]:
        """For `generate`: writes images as the options say; returns a line for each file or folder."""
        raise UsageError(self._lacks("generate"))

    def samples(self) -> dict[str, np.ndarray]:
        """{name: (H, W, 3) uint8}: pictures of the last evaluation."""
        return {}

    def preview(self, batch: Batch) -> torch.Tensor:
        """(N, S, S, C) uint8 on the CPU: the images of a training batch as the net sees them."""
        return batch.images.cpu()

    def lr(self) -> float:
        """The learning rate of the next step."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that training changes, as tensors and plain types; "net": the weights that are evaluated and used."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a state. What an option sets (learning rate, weight decay) stays as the option has it.

        Raises:
            UsageError: it is the state of another net or optimizer, or damaged.
        """
        raise NotImplementedError

    def _lacks(self, command: str) -> str:
        can = {"test": Task.predict, "generate": Task.generate}
        others = [name for name, method in can.items() if getattr(type(self), method.__name__) is not method]
        used = " and ".join(others) or "train and val"
        return f"{command} cannot use {self.opt.model}: nets of its task {type(self).__name__} are for {used}"


def task_class(model: str, net: nn.Module) -> type[Task]:
    """The task of `net`: its attribute `task` is a class, or names one of this folder or of the net's module."""
    task = getattr(net, "task", "Classify")
    if isinstance(task, type):
        return task
    known = registry.scan(FOLDER, "Task", "engine.tasks")
    if task in known:
        return getattr(import_module(known[task].module), task)
    module = import_module(type(net).__module__)
    if not isinstance(getattr(module, task, None), type):
        left_out = registry.left_out(FOLDER)
        raise UsageError(f"{model} names the task {task!r}: the tasks are {', '.join(known)}.{left_out}")
    return getattr(module, task)


def buffers_of(net: nn.Module) -> Buffers:
    """Copies of what a forward pass changes (BatchNorm's statistics), for a step that may have to be left out."""
    return [(buffer, buffer.clone()) for buffer in net.buffers()]


def put_back(buffers: Buffers) -> None:
    for buffer, value in buffers:
        buffer.copy_(value)


def check_finite(loss: torch.Tensor, net: nn.Module, before: Buffers) -> None:
    """Called between `backward` and the optimizer's step.

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
        put_back(before)
        raise NonFiniteError(names[0] + (f", {names[1]}" if len(names) > 1 else "") + _more(len(names) - 2))


def _more(count: int) -> str:
    return f" and of {count} more" if count > 0 else ""
