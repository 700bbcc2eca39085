"""Augmentation of training images, a batch at a time: flip, shift, rotate, cutout, noise."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Augment:
    """Random changes, determined by (seed, epoch, number of the draw) whatever batch the image is in.

    They are applied in this order: flip, shift, rotate, cutout, noise.

    Attributes:
        count: number of draws in an epoch, which is that of the images.
        flip: mirror each image in every other epoch (Jordan 2024, arXiv:2404.00498, section 3.6).
        shift: move by up to so many pixels in both directions; the border is reflected.
        cutout: side in pixels of a square that is covered with `fill` (DeVries, Taylor 2017,
            arXiv:1708.04552).
        fill: the value of each channel, 0 to 255, for cutout and for what rotation moves into the image.
        rotate: turn by up to so many degrees either way, bilinear; before cutout.
        noise: standard deviation of Gaussian noise on each value, as a part of the range 0 to 255; clipped.
    """

    seed: int
    count: int
    flip: bool = False
    shift: int = 0
    cutout: int = 0
    fill: tuple[int, ...] = (0,)
    rotate: float = 0.0
    noise: float = 0.0

    def __call__(self, images: torch.Tensor, epoch: int, draws: list[int]) -> torch.Tensor:
        """(B, S, S, C) uint8 -> the same shape and type. `draws`: B numbers in [0, count), see EpochBatchSampler."""
        drawn = torch.from_numpy(uniform(self.seed, epoch, self.count)[draws])  # (B, 4)
        images = self._flip_and_shift(images, epoch, draws, drawn)
        if self.rotate:
            angles = torch.from_numpy(uniform(self.seed, epoch, self.count, stream=1)[draws, 0]) * 2 - 1
            images = rotated(images, angles * self.rotate, self.fill)
        if self.cutout:
            side = images.shape[1]
            centre = (drawn[:, 2:] * side).long()  # (B, 2)
            near = (torch.arange(side) - centre[:, :, None] + self.cutout // 2).to(images.device)  # (B, 2, S)
            covered = (near >= 0) & (near < self.cutout)
            covered = (covered[:, 0, :, None] & covered[:, 1, None, :])[..., None]
            images = torch.where(covered, images.new_tensor(self.fill), images)
        if self.noise:
            keys = torch.from_numpy(uniform(self.seed, epoch, self.count, stream=1)[draws, 1:3])
            noise = gaussian((keys * 2**16).int(), images[0].numel(), images.device).view(images.shape)
            images = noise.mul_(255 * self.noise).add_(images).round_().clamp_(0, 255).to(torch.uint8)
        return images

    def _flip_and_shift(self, images: torch.Tensor, epoch: int, draws: list[int], drawn: torch.Tensor) -> torch.Tensor:
        count, side = images.shape[:2]
        mirrored = torch.zeros(count, dtype=torch.bool)
        if self.flip:
            mirrored = torch.from_numpy(self._mirrored_first[draws] ^ bool(epoch % 2))
        if self.shift:
            moves = (drawn[:, :2, None] * (2 * self.shift + 1)).long() - self.shift  # (B, 2, 1)
            rows, cols = _reflect(torch.arange(side) + moves, side).unbind(1)  # (B, S) each
            cols = torch.where(mirrored[:, None], side - 1 - cols, cols)
            which, rows, cols = (x.to(images.device) for x in (torch.arange(count), rows, cols))
            images = images[which[:, None, None], rows[:, :, None], cols[:, None, :]]
        elif self.flip:  # the same without a shift, in half the time
            images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(2), images)
        return images

    @cached_property
    def _mirrored_first(self) -> np.ndarray:
        """(N,) bool: whether a draw is mirrored in the first epoch."""
        return uniform(self.seed, -1, self.count)[:, 0] < 0.5


@lru_cache(maxsize=8)
def uniform(seed: int, epoch: int, count: int, stream: int = 0) -> np.ndarray:
    """(count, 4) float32 in [0, 1): a row for each image; a larger `count` only adds rows."""
    key = (seed, epoch + 1, stream) if stream else (seed, epoch + 1)
    return np.random.default_rng(key).random((count, 4), dtype=np.float32)


def rotated(images: torch.Tensor, degrees: torch.Tensor, fill: tuple[int, ...]) -> torch.Tensor:
    """Turns (B, S, S, C) uint8 around the middle by `degrees` (B,), counterclockwise."""
    angles = torch.deg2rad(degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).to(images.device)
    border = images.new_tensor(fill, dtype=torch.float32).view(1, -1, 1, 1)
    pixels = images.permute(0, 3, 1, 2).float() - border  # outside the image is 0, thus `fill`
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    turned = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + border
    return turned.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def gaussian(keys: torch.Tensor, count: int, device: torch.device) -> torch.Tensor:
    """(B, count) float32, standard normal; row b is determined by `keys` (B, 2), int32 below 2**16.

    Hashed counters instead of a generator: all rows at once, on any device. Box-Muller on 16 bits each.
    """
    key = ((keys[:, :1] << 16) ^ keys[:, 1:]).to(device)
    bits = _hash(_hash(torch.arange(count, dtype=torch.int32, device=device)) ^ key)
    radius = ((bits >> 16 & 0xFFFF) + 0.5).div_(2**16).log_().mul_(-2).sqrt_()
    return radius.mul_(((bits & 0xFFFF) * (2 * math.pi / 2**16)).cos_())


def _hash(x: torch.Tensor) -> torch.Tensor:
    """Mixes the bits of int32 values (lowbias32 of Wellons' hash prospector); `&` makes shifts logical."""
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D
    x = (x ^ (x >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return x ^ (x >> 16 & 0xFFFF)


def _reflect(places: torch.Tensor, side: int) -> torch.Tensor:
    """Places outside of [0, side) mirrored at the border pixels."""
    return (side - 1) - ((side - 1) - places.abs()).abs()
