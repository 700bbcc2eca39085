"""CifarNet."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from models.basic_module import BasicModule


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, the first pooled: (N, c_in, H, W) -> (N, c_out, H/2, W/2)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(
            conv(c_in, c_out), nn.MaxPool2d(2), norm(c_out), nn.GELU(), conv(c_out, c_out), norm(c_out), nn.GELU()
        )


def conv(c_in: int, c_out: int) -> nn.Conv2d:
    """A 3x3 convolution that at first hands its input on in its first channels."""
    layer = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:c_in])
    return layer


class GlobalMaxPool(nn.Module):
    """(N, C, H, W) -> (N, C, 1, 1): AdaptiveMaxPool2d(1), value for value, of which older torch makes no ONNX."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(maps, maps.shape[2:])


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm whose statistics follow fast, for trainings of few steps; its weight stays 1."""
    layer = nn.BatchNorm2d(channels, momentum=0.4)
    layer.weight.requires_grad = False
    return layer


class CifarNet(BasicModule):
    """The small net of the CIFAR-10 speed race: a fixed whitening layer, then three blocks of widths 64, 256 and 256.

    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024 (https://arxiv.org/abs/2404.00498).

    Input (N, in_channels, S, S), S of 9 or more, made for 32; output logits (N, num_classes). The first layer is set
    from the first training images, so that what it gives has no correlations, and does not learn.
    1,972,792 parameters with 3 channels and 10 classes.
    """

    widths = (64, 256, 256)

    def __init__(self, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.whiten = nn.Conv2d(in_channels, 8 * in_channels, 2)
        self.whiten.weight.requires_grad = False
        self.blocks = nn.Sequential(
            nn.GELU(),
            ConvBlock(8 * in_channels, self.widths[0]),
            ConvBlock(self.widths[0], self.widths[1]),
            ConvBlock(self.widths[1], self.widths[2]),
            GlobalMaxPool(),
        )
        self.head = nn.Linear(self.widths[2], num_classes, bias=False)

    def init_from_data(self, images: Callable[[], torch.Tensor]) -> None:
        patches = images().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5)  # (N, H-1, W-1, C, 2, 2)
        patches = patches.reshape(-1, 4 * self.in_channels)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + 5e-4).sqrt()).T.reshape(-1, self.in_channels, 2, 2)
        self.whiten.weight.data = torch.cat([filters, -filters])

    def forward(self, x):
        return self.head(self.blocks(self.whiten(x)).flatten(1)) / 16  # 16 keeps the first logits small


class DigitNet(CifarNet):
    """CifarNet with blocks of widths 32, 64 and 128, for small grey images.

    Input (N, in_channels, S, S), S of 9 or more; output logits (N, num_classes).
    290,216 parameters with 1 channel and 10 classes.
    """

    widths = (32, 64, 128)

    def __init__(self, num_classes: int = 10, in_channels: int = 1):
        super().__init__(num_classes, in_channels)
