"""Generative adversarial nets: a generator and a discriminator as one model, so that one checkpoint holds both."""

import torch
from torch import nn

from models.basic_module import BasicModule
from utils.errors import UsageError


class _GAN(BasicModule):
    """A generator from noise (N, nz, 1, 1) to images (N, C, S, S) in [-1, 1], and a discriminator of such images.

    Called, it is the discriminator: images (N, C, S, S) -> logits (N,), above 0 where it takes them for real.

    Raises:
        UsageError: C or S is not the net's own.
    """

    task = "Gan"
    dataset = "Unlabelled"  # what it learns from where no data set is named
    in_channels = 3
    side: int  # S
    nz: int
    generator: nn.Module
    discriminator: nn.Module

    def __init__(self, nz: int, image_size: int, in_channels: int):
        super().__init__()
        self.nz = nz
        for what, own, given in (("pixels a side", self.side, image_size), ("channels", self.in_channels, in_channels)):
            if own != given:
                raise UsageError(f"{self.model_name} makes images of {own} {what}, not {given}")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.discriminator(images).flatten()


class AnimeGAN(_GAN):
    """DCGAN at 96 x 96 (book, chapter 7; Radford, Metz, Chintala 2015, arXiv:1511.06434).

    The generator grows (nz, 1, 1) by transposed convolutions to sides 4, 8, 16, 32, 96; the discriminator mirrors it.

    Args:
        nz: length of the noise. ngf, ndf: channels at side 32 of the generator and the discriminator.
    """

    side = 96

    def __init__(self, nz: int = 100, ngf: int = 64, ndf: int = 64, image_size: int = 96, in_channels: int = 3):
        super().__init__(nz, image_size, in_channels)
        self.generator = nn.Sequential(
            *_grow(nz, 8 * ngf, stride=1, padding=0),  # 4 x 4
            *_grow(8 * ngf, 4 * ngf),
            *_grow(4 * ngf, 2 * ngf),
            *_grow(2 * ngf, ngf),  # 32 x 32
            nn.ConvTranspose2d(ngf, 3, 5, 3, 1, bias=False),  # 96 x 96
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(3, ndf, 5, 3, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            *_shrink(ndf, 2 * ndf),
            *_shrink(2 * ndf, 4 * ndf),
            *_shrink(4 * ndf, 8 * ndf),  # 4 x 4
            nn.Conv2d(8 * ndf, 1, 4, 1, 0, bias=False),
        )
        self.apply(_dcgan_weights)


class MNISTGAN(_GAN):
    """The GAN of the MNIST tutorial: noise, linear to 56 x 56, convolutions 50-25-1; two convolutions against it.

    Images (N, 1, 28, 28).

    Args:
        nz: length of the noise.
    """

    side, in_channels = 28, 1

    def __init__(self, nz: int = 100, image_size: int = 28, in_channels: int = 1):
        super().__init__(nz, image_size, in_channels)
        self.generator = nn.Sequential(
            nn.Flatten(),
            nn.Linear(nz, 56 * 56),
            nn.Unflatten(1, (1, 56, 56)),
            nn.BatchNorm2d(1),
            nn.ReLU(inplace=True),
            nn.Conv2d(1, 50, 3, padding=1),
            nn.BatchNorm2d(50),
            nn.ReLU(inplace=True),
            nn.Conv2d(50, 25, 3, padding=1),
            nn.BatchNorm2d(25),
            nn.ReLU(inplace=True),
            nn.Conv2d(25, 1, 2, stride=2),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.AvgPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 1024),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(1024, 1),
        )


def _grow(c_in: int, c_out: int, stride: int = 2, padding: int = 1) -> list[nn.Module]:
    """(N, c_in, H, W) -> (N, c_out, 2H, 2W)."""
    return [nn.ConvTranspose2d(c_in, c_out, 4, stride, padding, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(True)]


def _shrink(c_in: int, c_out: int) -> list[nn.Module]:
    """(N, c_in, H, W) -> (N, c_out, H/2, W/2)."""
    return [nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)]


def _dcgan_weights(module: nn.Module) -> None:
    """Weights from N(0, 0.02), those of batch norm from N(1, 0.02), as in the paper."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
        nn.init.zeros_(module.bias)
