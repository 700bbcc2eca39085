"""Which image sizes a net can take, and what it gives: tried on the meta device, whose tensors have no data."""

from typing import Any

import torch

import models
from models.building import on_meta
from models.calling import Arguments
from utils.errors import UsageError

SIZES = (28, 32, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 512)  # pixels, the usual ones


def check(
    name: str,
    num_classes: int,
    image_size: int,
    batch_size: int,
    channels: int,
    shown: int,
    arguments: Arguments,
) -> None:
    """Refuses an image size that the net cannot be trained on in such batches, or a smaller one `shown` at first.

    Raises:
        UsageError: names the smallest of the usual sizes that works, and the nearest to the one asked for; or what a
            classifier gives in place of one number for each class.
    """
    single = batch_size == 1  # then batch norm needs maps of more than 1x1

    def output(size: int, shown: int | None = None) -> tuple[Any, int] | None:
        return _output(name, num_classes, size, single, channels, shown or size, arguments)

    if (given := output(image_size)) is not None:
        if output(image_size, shown) is None:
            raise UsageError(
                f"{name} for {image_size}x{image_size} pixels cannot take {shown}x{shown} at first: "
                "leave out --progressive-resizing"
            )
        _check_output(name, num_classes, channels, *given)
        return
    working = [size for size in SIZES if output(size) is not None]
    if not working:  # then it is not the size: let the real net show what is wrong
        return
    smallest, near = working[0], min(working, key=lambda size: abs(size - image_size))
    also = f", the nearest {near}" if near != smallest else ""
    raise UsageError(
        f"{name} cannot take images of {image_size}x{image_size} pixels{' one at a time' if single else ''}: "
        f"of the usual sizes the smallest that works is {smallest}{also}"
    )


def _check_output(name: str, num_classes: int, channels: int, output: Any, in_channels: int) -> None:
    """A classifier must take the images and give one number for each class; others are up to their tasks."""
    if models.task_of(name) != "Classify":
        return
    if channels not in (1, in_channels):  # grey images are repeated
        raise UsageError(
            f"{name} takes images of {in_channels} channels, and these have {channels}: let its constructor take "
            "in_channels, which is given to it"
        )
    if not isinstance(output, torch.Tensor):
        raise UsageError(
            f"{name} gives a {type(output).__name__} for a batch of images: logits (N, {num_classes}) are needed"
        )
    if output.shape != (1, num_classes):
        raise UsageError(
            f"{name} gives {tuple(output.shape)} for one image of {num_classes} classes, not (1, {num_classes}): let "
            "its constructor take num_classes, which is given to it"
        )


def _output(
    name: str, num_classes: int, size: int, training: bool, channels: int, shown: int, arguments: Arguments
) -> tuple[Any, int] | None:
    """What the net for this size gives for one image, on the meta device, and the channels that it takes.

    None where anything fails. Any failure counts: check() asks again at other sizes.
    """
    try:
        with torch.no_grad():
            net = on_meta(name, num_classes, size, channels, arguments).train(training)
            return net(torch.empty(1, net.in_channels, shown, shown, device="meta")), net.in_channels
    except Exception:
        return None
