"""The layers of a net by name, and what they give as a map."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from data.batch import Batch
from engine.tasks.base import Task
from engine.tasks.classify import Classify
from utils.errors import UsageError, nearest
from utils.text import few

Map = torch.Tensor  # (N, C, h, w)


def find(net: nn.Module, name: str) -> nn.Module:
    """The layer of that name, as in the keys of the state dict: `layer4.1.conv2`.

    Raises:
        UsageError: there is none; gives the nearest.
    """
    known = dict(net.named_modules())
    known.pop("")
    if name not in known:
        top = few(name for name, _ in net.named_children())
        hint = nearest(name, known)
        raise UsageError(f"--layer={name}: the net has no such layer; it consists of {top or 'one piece'}.{hint}")
    return known[name]


def check_classifier(task: Task, command: str) -> None:
    """Raises UsageError where the net is none of those that `command` looks into."""
    if not isinstance(task, Classify):
        name = type(task).__name__
        raise UsageError(f"{command} takes classifiers: {task.opt.model} is a net of the task {name}")


def inputs(task: Any, images: torch.Tensor) -> torch.Tensor:
    """(N, S, S, C) uint8 -> (N, C, S, S) float32 on the task's device, as its net takes them."""
    none = torch.full((len(images),), -1)
    normalized = task._images(Batch(images, none, none).to(task.device.device))
    return normalized.contiguous(memory_format=task.device.memory_format)


def as_map(output: Any) -> Map | None:
    """A layer's output as (N, C, h, w) with more than one position; None where it has no places in the image.

    Tokens (N, T, C), as of ViT, are a square grid row by row, behind a class token or not.
    """
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return None
    if output.ndim == 4:
        found = channels_first(output)
        return found if found.shape[2] * found.shape[3] > 1 else None
    if output.ndim == 3:
        side = math.isqrt(output.shape[1])
        if side > 1 and output.shape[1] - side**2 <= 1:
            tokens = output[:, output.shape[1] - side**2 :]
            return tokens.transpose(1, 2).unflatten(2, (side, side))
    return None


def channels_first(output: torch.Tensor) -> Map:
    """(N, h, w, C) as (N, C, h, w): where only so the map is square, as in Swin."""
    _, one, two, three = output.shape
    return output.permute(0, 3, 1, 2) if one == two != three else output


def no_map(name: str, output: Any) -> UsageError:
    """Why the output of a layer is no map, and what to type."""
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    what = "tokens that are no square grid behind one class token" if _tokens(output) else "no map of the image"
    return UsageError(
        f"the layer {name} gives {what}, but {shape}: name one that gives (N, channels, height, width) by --layer=NAME"
    )


@contextmanager
def watched(
    net: nn.Module, seen: Callable[[str, nn.Module, tuple, Any], Any], layers: dict[str, nn.Module] | None = None
) -> Iterator[None]:
    """Within the block, calls `seen(name, layer, inputs, output)` after each layer; what it returns is the output.

    Args:
        layers: only these; None: all.
    """
    layers = {name: layer for name, layer in net.named_modules() if name} if layers is None else layers
    handles = [
        layer.register_forward_hook(lambda layer, given, output, name=name: seen(name, layer, given, output))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_map(task: Any, image: torch.Tensor) -> str:
    """The layer that Grad-CAM looks at: the last that gives a map.

    Where the predicted class does not depend on any place of it, as behind the last block of a ViT, which reads the
    class token alone, it is the last one of the same shape of which it does.

    Args:
        image: (1, S, S, C) uint8.

    Raises:
        UsageError: no layer gives a map.
    """
    net, places = task.eval_model.eval(), list[tuple[str, torch.Tensor]]()

    def seen(name: str, layer: nn.Module, given: tuple, output: Any) -> None:
        if (as_map(output) is not None or _tokens(output)) and len(output) == 1:
            places.append((name, output))

    with torch.enable_grad(), watched(net, seen):
        start = inputs(task, image).requires_grad_()
        logits = net(start.clone())  # the first layer may work in place
        if not places:
            raise UsageError(
                f"{task.opt.model} has no layer that gives a map of the image: explain cannot look into it"
            )
        last, output = places[-1]
        if as_map(output) is None:
            raise no_map(last, output)
        alike = [(name, output) for name, output in places if output.shape == places[-1][1].shape]
        gradients = torch.autograd.grad(logits.max(), [output for _, output in alike], allow_unused=True)
    for (name, _), gradient in reversed(list(zip(alike, gradients, strict=True))):
        if gradient is not None and as_map(gradient).any():  # type: ignore[union-attr]
            return name
    return last


def _tokens(output: Any) -> bool:
    """Whether it is (N, T, C) with several tokens."""
    return isinstance(output, torch.Tensor) and output.ndim == 3 and output.shape[1] > 1
