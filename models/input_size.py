"""Which image sizes a net can take, tried on the meta device, where tensors have shapes and no data."""

import torch
import torchvision.models  # noqa: F401 - its import makes tensors: not to happen first inside _MetaWeights
from torch import nn
from torch.overrides import TorchFunctionMode

import models
from utils.errors import UsageError

SIZES = (28, 32, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 512)  # pixels, the usual ones


class _MetaWeights(TorchFunctionMode):
    """Weights and buffers made inside are on the meta device.

    Inside `with torch.device("meta")` all tensors would be; but RegNet computes its widths with one.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def on_meta(name: str, num_classes: int, image_size: int, channels: int = 3) -> nn.Module:
    """The net without data, in eval mode: right shapes and names, at no cost in memory and little in time."""
    with _MetaWeights():
        net = models.build(name, num_classes, image_size, channels=channels)
    return net.to("meta").eval()


def check(name: str, num_classes: int, image_size: int, batch_size: int, channels: int, shown: int) -> None:
    """Refuses an image size that the net cannot be trained on in such batches, or a smaller one `shown` at first.

    Raises:
        UsageError: names the smallest of the usual sizes that works, and the nearest to the one asked for.
    """
    single = batch_size == 1  # then batch norm needs maps of more than 1x1
    if _takes(name, num_classes, image_size, single, channels):
        if not _takes(name, num_classes, image_size, single, channels, shown):
            raise UsageError(
                f"{name} for {image_size}x{image_size} pixels cannot take {shown}x{shown} at first: "
                "leave out --progressive-resizing"
            )
        return
    working = [size for size in SIZES if _takes(name, num_classes, size, single, channels)]
    if not working:  # then it is not the size: let the real net show what is wrong
        return
    smallest, nearest = working[0], min(working, key=lambda size: abs(size - image_size))
    also = f", the nearest {nearest}" if nearest != smallest else ""
    raise UsageError(
        f"{name} cannot take images of {image_size}x{image_size} pixels{' one at a time' if single else ''}: "
        f"of the usual sizes the smallest that works is {smallest}{also}"
    )


def _takes(name: str, num_classes: int, size: int, training: bool, channels: int, shown: int | None = None) -> bool:
    """Whether one image goes through the net for this size. Any failure counts: check() asks again at other sizes."""
    try:
        with torch.no_grad():
            net = on_meta(name, num_classes, size, channels).train(training)
            net(torch.empty(1, net.in_channels, shown or size, shown or size, device="meta"))
    except Exception:
        return False
    return True
