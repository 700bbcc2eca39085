"""From an image file to the uint8 square that the net sees. Nothing is decoded that is not needed."""

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from utils.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ORIENTATION = 0x0112  # EXIF tag
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


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
        """A random crop of random shape, half of the time mirrored (book, chapter 6).

        Args:
            key: what the randomness depends on, and nothing else: (seed, epoch, index) in words.
        Returns:
            (S, S, 3) uint8.
        """
        rng = random.Random(key)
        image = read(path, self.image_size, lambda size: random_crop(size, self.min_crop, rng))
        return image[:, ::-1] if rng.random() < 0.5 else image

    def eval(self, path: Path) -> np.ndarray:
        """The largest square in the middle, (S, S, 3) uint8: the same as Resize(S), CenterCrop(S)."""
        return read(path, self.image_size, center_square)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 -> (N, 3, S, S) float32, of mean 0 and deviation 1 over ImageNet; channels last."""
        mean = images.new_tensor(self.mean, dtype=torch.float32) * 255
        scale = 1 / (images.new_tensor(self.std, dtype=torch.float32) * 255)
        return images.to(torch.float32).sub_(mean).mul_(scale).permute(0, 3, 1, 2)


def read(path: Path, side: int, pick: Callable[[tuple[int, int]], Box]) -> np.ndarray:
    """Decodes the box of an image that `pick` chooses from (width, height), scaled to (side, side, 3) uint8, RGB.

    The box is chosen from the file's header, before decoding: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its
    size where that still has a pixel for each one wanted (libjpeg's DCT scaling).

    Raises:
        UsageError: the file cannot be read as an image; path and reason in one line.
    """
    try:
        with Image.open(path) as image:
            upright = image.getexif().get(ORIENTATION, 1) == 1
            image = image if upright else ImageOps.exif_transpose(image)
            (width, height), box = image.size, pick(image.size)
            if upright:
                wanted = width * side / (box[2] - box[0]), height * side / (box[3] - box[1])
                image.draft("RGB", (math.ceil(wanted[0]), math.ceil(wanted[1])))
            fx, fy = image.width / width, image.height / height
            box = (box[0] * fx, box[1] * fy, box[2] * fx, box[3] * fy)
            return np.asarray(eight_bits(image).convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise UsageError(f"image {path} cannot be read: {e}") from e


def eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey values of 16 bits, or floats in [0, 1], to 0 to 255; PIL's convert would only cut them off."""
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image, dtype=np.float32)
    top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255 if values.max() > 1 else 1
    return Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8))


def center_square(size: tuple[int, int]) -> Box:
    width, height = size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_crop(size: tuple[int, int], min_area: float, rng: random.Random) -> Box:
    """A box of `min_area` to all of the area and of aspect 3/4 to 4/3 (Szegedy et al. 2015, arXiv:1409.4842)."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    return center_square(size)
