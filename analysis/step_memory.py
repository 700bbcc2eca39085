"""The memory of a training step, measured on a net without data."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from engine.device import size_of


@dataclass
class StepMemory:
    """Bytes of a training step.

    Attributes:
        optimizer: its state; None where it cannot be known.
        activations: what the forward pass keeps for the backward pass, with copies of weights in bfloat16.
    """

    weights: int
    gradients: int
    optimizer: int | None
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + (self.optimizer or 0) + self.activations


def without_data(net: nn.Module, device: torch.device) -> tuple[nn.Module, FakeTensorMode]:
    """The net of the meta device as one of `device` that takes no memory, and the mode in which it runs.

    On the meta device itself there is no autocast, and so no bfloat16.
    """
    mode = FakeTensorMode()

    def fake(tensor: torch.Tensor) -> FakeTensor:
        return FakeTensor(mode, tensor.detach(), device)

    for module in net.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(fake(p), p.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)
    return net, mode


def measure(
    net: nn.Module,
    forward: Callable[[], object],
    make_optimizers: Callable[[], list[torch.optim.Optimizer]],
    mode: AbstractContextManager | None = None,
) -> StepMemory:
    """Sends a batch forward, and takes a step of the optimizers with gradients of no meaning.

    Args:
        forward: gives what backward passes start from, which is kept alive.
        mode: in which the net runs, where it has no data.
    """
    held = [*net.parameters(), *net.buffers()]
    own, kept = {_key(tensor) for tensor in held}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _key(tensor) not in own:
            kept[_key(tensor)] = tensor  # kept alive, so that no other one gets its key
        return tensor

    with mode or nullcontext():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _ = forward()
        activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        trainable = [p for p in net.parameters() if p.requires_grad]
        for p in trainable:
            p.grad = torch.zeros_like(p)
        return StepMemory(size_of(held), size_of(trainable), _state_size(make_optimizers()), activations)


def _state_size(optimizers: list[torch.optim.Optimizer]) -> int | None:
    """Bytes of their state after a step; None where one cannot step like that."""
    try:
        for optimizer in optimizers:
            optimizer.step()
    except Exception:  # LBFGS wants a closure; one of the user's may look at numbers
        return None
    return sum(size_of(list(optimizer.state.values())) for optimizer in optimizers)


def _key(tensor: torch.Tensor) -> int:
    """What tensors have in common that are views of the same memory."""
    return tensor.untyped_storage()._cdata
