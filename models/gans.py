"""Generative adversarial nets: a generator and a discriminator as one model, so that one checkpoint holds both."""

import torch
from torch import nn

from models.basic_module import BasicModule
from utils.errors import UsageError


class _GAN(BasicModule):
    """A generator from latents (N, latent_size, 1, 1) to images (N, C, S, S) in [-1, 1], and a discriminator of such.

    Called, it is the discriminator: images (N, C, S, S) -> logits (N,), above 0 where it takes them for real.

    With `conditional` both nets know the class of an image: a latent is noise and the class as a one-hot code (Mirza,
    Osindero 2014, arXiv:1411.1784), and the discriminator is a `Projection`, which takes labels (N,) too.

    Raises:
        UsageError: C or S is not the net's own, or it is to be conditional and there are fewer than two classes.
    """

    task = "Gan"
    dataset = "Unlabelled"  # what it learns from where no data set is named
    in_channels = 3
    side: int  # S
    nz: int
    generator: nn.Module
    discriminator: nn.Module

    def __init__(self, nz: int, image_size: int, in_channels: int, num_classes: int, conditional: bool):
        super().__init__()
        self.nz, self.conditional = nz, conditional
        self.latent_size = nz + num_classes * conditional
        for what, own, given in (("pixels a side", self.side, image_size), ("channels", self.in_channels, in_channels)):
            if own != given:
                raise UsageError(f"{self.model_name} makes images of {own} {what}, not {given}")
        if conditional and num_classes < 2:
            raise UsageError("--conditional needs images of two classes or more, and these are of one: leave it out")

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.discriminator(images).flatten() if labels is None else self.discriminator(images, labels)


class Projection(nn.Module):
    """A discriminator that knows the class: an image's features are compared with a vector of the class, which is
    learned (Miyato, Koyama 2018, arXiv:1802.05637).

    Images (N, C, S, S), labels (N,) -> logits (N,); without labels it judges the image alone.

    Args:
        net: a discriminator, whose last layer takes `width` features.
    """

    def __init__(self, net: nn.Sequential, num_classes: int, width: int):
        super().__init__()
        self.features, self.last = net[:-1], net[-1]
        self.classes = nn.Embedding(num_classes, width)
        nn.init.normal_(self.classes.weight, 0, 0.02)

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        features = self.features(images)
        logits = self.last(features).flatten()
        return logits if labels is None else logits + (features.flatten(1) * self.classes(labels)).sum(dim=1)


class AnimeGAN(_GAN):
    """DCGAN at 96 x 96 (book, chapter 7; Radford, Metz, Chintala 2015, arXiv:1511.06434).

    The generator grows (nz, 1, 1) by transposed convolutions to sides 4, 8, 16, 32, 96; the discriminator mirrors it.

    Args:
        nz: length of the noise. ngf, ndf: channels at side 32 of the generator and the discriminator.
        conditional: whether both nets know the class of an image.
    """

    side = 96

    def __init__(
        self,
        nz: int = 100,
        ngf: int = 64,
        ndf: int = 64,
        image_size: int = 96,
        in_channels: int = 3,
        num_classes: int = 1,
        conditional: bool = False,
    ):
        super().__init__(nz, image_size, in_channels, num_classes, conditional)
        self.generator = nn.Sequential(
            *_grow(self.latent_size, 8 * ngf, stride=1, padding=0),  # 4 x 4
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
        if conditional:
            self.discriminator = Projection(self.discriminator, num_classes, 8 * ndf * 4 * 4)


class MNISTGAN(_GAN):
    """The GAN of the MNIST tutorial: noise, linear to 56 x 56, convolutions 50-25-1; two convolutions against it.

    Images (N, 1, 28, 28).

    Args:
        nz: length of the noise.
        conditional: whether both nets know the class of an image.
    """

    side, in_channels = 28, 1

    def __init__(
        self,
        nz: int = 100,
        image_size: int = 28,
        in_channels: int = 1,
        num_classes: int = 10,
        conditional: bool = False,
    ):
        super().__init__(nz, image_size, in_channels, num_classes, conditional)
        self.generator = nn.Sequential(
            nn.Flatten(),
            nn.Linear(self.latent_size, 56 * 56),
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
        if conditional:
            self.discriminator = Projection(self.discriminator, num_classes, 1024)


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
