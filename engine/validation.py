"""Evaluates a task on validation images, and tells whether its numbers are finite."""

import hashlib
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch

from data.loaders import Batch, EpochLoader, collect_bad_images
from engine.device import oom_as_failure
from engine.tasks.base import NonFiniteError, Task
from utils.errors import UsageError
from utils.progress import with_progress


def not_finite(state: dict[str, Any]) -> str | None:
    """The first weight that holds NaN or infinity, in those of a task's state that are state dicts of nets."""
    for net in (value for value in state.values() if isinstance(value, dict)):
        floats = {k: v for k, v in net.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
        if name := next((k for k, v in floats.items() if not v.isfinite().all()), None):
            return name
    return None


def checksum(net: torch.nn.Module) -> str:
    """A SHA-256 of all weights and buffers."""
    sha = hashlib.sha256()
    for tensor in net.state_dict().values():
        sha.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def validate(
    task: Task, loader: EpochLoader, interruptible: Callable[[Iterable[Batch]], Iterable[Batch]] = iter
) -> tuple[dict[str, Any], list[str]]:
    """Evaluates the task on all images of `loader`, with a progress bar.

    Args:
        interruptible: wraps the batches where a stop may end the wait for one.

    Returns:
        The metrics as plain numbers and lists, and a line for each image that could not be read and was replaced.

    Raises:
        UsageError: a metric that `--monitor` may name is no number.
        NonFiniteError: the net's output, or the loss, is NaN or infinite.
    """
    bad: list[str] = []
    batches = with_progress(interruptible(loader.set_epoch(0)), "validating", len(loader.items))
    with oom_as_failure(task.opt, task.preprocess.image_size):
        values = task.evaluate(collect_bad_images(batches, bad))
    metrics = {name: v.tolist() if hasattr(v, "tolist") else v for name, v in values.items()}  # of torch and numpy
    for name in task.metric_modes():
        if not isinstance(metrics.get(name), Real):
            raise UsageError(f"the metric {name} is of type {type(metrics.get(name)).__name__}: expected a number")
    for name in {"loss", task.monitor} & metrics.keys():
        if not math.isfinite(metrics[name]):
            raise NonFiniteError(f"the {name} ({metrics[name]})")
    return metrics, bad
