"""From an image file to the uint8 square that the net sees."""

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.image_data import IMAGENET_MEAN, IMAGENET_STD
from data.reading import Box, read


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image before the net; part of every checkpoint, so that val and test repeat it."""

    image_size: int
    min_crop: float = 1.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def state_dict(self) -> dict:
        return asdict(self)

    def train(self, path: Path, key: str) -> np.ndarray:
        """A random crop of random shape (book, chapter 6), (S, S, C) uint8.

        Args:
            key: what the randomness depends on, and nothing else: (seed, epoch, index) in words.
        """
        return self._read(path, lambda size: random_crop(size, self.min_crop, random.Random(key)))

    def eval(self, path: Path) -> np.ndarray:
        """The largest square in the middle, (S, S, C) uint8: the same as Resize(S), CenterCrop(S)."""
        return self._read(path, center_square)

    def _read(self, path: Path, pick: Callable[[tuple[int, int]], Box]) -> np.ndarray:
        pixels = read(path, self.image_size, pick)
        return pixels if len(self.mean) == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """(N, S, S, C) uint8 -> (N, C, S, S) float32, of mean 0 and deviation 1 over the data set; channels last."""
        mean = images.new_tensor(self.mean, dtype=torch.float32) * 255
        scale = 1 / (images.new_tensor(self.std, dtype=torch.float32) * 255)
        return images.to(torch.float32).sub_(mean).mul_(scale).permute(0, 3, 1, 2)


def center_square(size: tuple[int, int]) -> Box:
    width, height = size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_crop(size: tuple[int, int], min_area: float, rng: random.Random) -> Box:
    """A box of `min_area` to all of the area and of aspect 3/4 to 4/3 (Szegedy et al. 2015, arXiv:1409.4842).

    The square in the middle where `min_area` is 1.
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
