"""From an image to the uint8 square that the net gets."""

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from data.image_data import IMAGENET_MEAN, IMAGENET_STD
from data.reading import Box, Readable, read
from utils.errors import UsageError, nearest

INTERPOLATIONS = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "nearest": "nearest-exact",
}  # timm's name: torch's


@dataclass(frozen=True)
class Preprocess:
    """How an image is prepared for the net; part of every checkpoint, so that val and test repeat it.

    Attributes:
        image_size: S, the side of the square in pixels.
        min_crop: the smallest part of the area that a training crop takes, in (0, 1]; 1: the same square as
            in eval.
        mean, std: of each channel over the training images, in [0, 1].
        interpolation: "bilinear", "bicubic" or "nearest", as in timm; with antialiasing.
        crop_pct: the part of the shorter side that the middle square takes in eval, in (0, 1], as in timm.

    Raises:
        UsageError: an unknown interpolation, or a crop_pct out of range.
    """

    image_size: int
    min_crop: float = 1.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            hint = nearest(self.interpolation, INTERPOLATIONS)
            raise UsageError(f"interpolation={self.interpolation!r}: expected {', '.join(INTERPOLATIONS)}.{hint}")
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"crop_pct={self.crop_pct}: expected a number above 0, up to 1")

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def train(self, source: Readable | Image.Image, key: str) -> np.ndarray:
        """A random crop of random shape (book, chapter 6), (S, S, C) uint8; as `eval` if min_crop is 1.

        Args:
            key: determines the crop; (seed, epoch, draw) as text.
        """
        if self.min_crop == 1:
            return self.eval(source)
        return self._read(source, lambda size: random_crop(size, self.min_crop, random.Random(key)))

    def eval(self, source: Readable | Image.Image) -> np.ndarray:
        """The middle square, (S, S, C) uint8: the same as Resize(S / crop_pct), CenterCrop(S)."""
        return self._read(source, lambda size: center_square(size, self.crop_pct))

    def blank(self) -> np.ndarray:
        """(S, S, C) uint8, black."""
        return np.zeros((self.image_size, self.image_size, len(self.mean)), dtype=np.uint8)

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) uint8 -> (N, S, S, C) uint8; the values are those of PIL within 1."""
        size, mode = (self.image_size, self.image_size), INTERPOLATIONS[self.interpolation]
        scaled = F.interpolate(images.permute(0, 3, 1, 2), size, mode=mode, antialias=mode != "nearest-exact")
        return scaled.permute(0, 2, 3, 1)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """(N, S, S, C) uint8 -> (N, C, S, S) float32, channels last: (x / 255 - mean) / std."""
        mean = images.new_tensor(self.mean, dtype=torch.float32) * 255
        scale = 1 / (images.new_tensor(self.std, dtype=torch.float32) * 255)
        return images.to(torch.float32).sub_(mean).mul_(scale).permute(0, 3, 1, 2)

    def denormalize(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, S, S) float -> (N, S, S, C) uint8, the inverse of `normalize`, clipped to 0 to 255."""
        mean, std = (images.new_tensor(values, dtype=torch.float32) * 255 for values in (self.mean, self.std))
        return (images.permute(0, 2, 3, 1).float() * std + mean).round_().clamp_(0, 255).to(torch.uint8)

    def _read(self, source: Readable | Image.Image, choose_box: Callable[[tuple[int, int]], Box]) -> np.ndarray:
        pixels = read(source, self.image_size, choose_box, Image.Resampling[self.interpolation.upper()])
        return pixels if len(self.mean) == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def center_square(size: tuple[int, int], part: float = 1.0) -> tuple[int, int, int, int]:
    """The middle square (left, top, right, bottom) whose side is `part` of the shorter side."""
    width, height = size
    side = max(round(min(width, height) * part), 1)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_crop(size: tuple[int, int], min_area: float, rng: random.Random) -> tuple[int, int, int, int]:
    """A box of `min_area` to 1 of the area and of aspect 3/4 to 4/3 (Szegedy et al. 2015, arXiv:1409.4842).

    The middle square if `min_area` is 1, or no such box fits in ten draws.
    """
    width, height = size
    for _ in range(10 if min_area < 1 else 0):
        area = width * height * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    return center_square(size)
