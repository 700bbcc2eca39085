"""Which layer's output is the first that is not finite."""

from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from data.batch import Batch
from engine.tasks.base import NonFiniteError, Task
from engine.watch import first_tensor


class _Found(Exception):
    """Ends the second pass of `first_not_finite`."""


def first_not_finite(task: Task, batch: Batch) -> str:
    """Which layer's output was the first that is not finite in a step that raised NonFiniteError; in one clause.

    The step is done once more, with the same random numbers as the caller has seeded, up to that layer; no optimizer
    gets to step, and buffers such as BatchNorm's averages are put back.
    """

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and not tensor.isfinite().all():
            bad = any(not p.isfinite().all() for p in module.parameters(recurse=False))
            raise _Found(f"{name} ({type(module).__name__}{', whose weights are not finite' if bad else ''})")

    def refuse(*_: Any) -> None:
        raise _Found("")

    found, buffers = "", [(buffer, buffer.clone()) for buffer in task.net.buffers()]
    with ExitStack() as stack:
        for name, module in task.net.named_modules():
            stack.callback(module.register_forward_hook(partial(look, name or "the net itself")).remove)
        stack.callback(register_optimizer_step_pre_hook(refuse).remove)
        try:
            task.train_step(batch)
        except (_Found, NonFiniteError) as e:
            found = str(e) if isinstance(e, _Found) else ""
    for buffer, value in buffers:
        buffer.copy_(value)
    return f"first not finite in the forward pass: {found}" if found else "the output of every layer is finite"
