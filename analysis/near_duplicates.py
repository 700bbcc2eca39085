"""Validation images that are copies of a training image: resized, compressed again, brighter or darker.

A net knows such an image by heart, so accuracy flatters. Two images count as copies where the differences between
neighbouring pixels correlate, in grey at 16 x 16: brightness and contrast drop out, and similar photographs stay below
0.7. A perceptual hash (dHash) keeps only the signs of these differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from data.image_data import ImageData, Items
from data.loaders import cores
from data.reading import read
from utils.errors import UsageError
from utils.progress import in_threads

SIDE, COARSE = 32, 16  # pixels at which pairs are looked at closely, and all are compared
ALIKE, SAME = 0.9, 0.96  # least correlation of copies at COARSE, and what at SIDE settles it
NEAREST, APART = 8, 0.25  # see `_stands_out`
PLAIN = 1.0  # of 255; images of smaller differences between neighbouring pixels show nothing to compare
MOST_VAL, MOST_TRAIN = 10_000, 60_000  # images that are compared; of more, so many at even distances
AT_ONCE = 512  # images of a block


@dataclass(frozen=True)
class Pair:
    """A validation image and its copy: positions in the items of their parts; `score`: their correlation, up to 1."""

    val: int
    train: int
    score: float


@dataclass(frozen=True)
class Duplicates:
    """The pairs, the most alike first, of at most one for each validation image; how many images were compared."""

    pairs: list[Pair]
    val: int
    train: int


def find(dataset: ImageData, val_items: Items, train_items: Items) -> Duplicates:
    """Reads the images of both parts, and looks for the copy of each validation image among those for training.

    Images that cannot be read, and plain ones, are passed over.
    """
    (val, val_images), (train, train_images) = (
        _small(dataset, items, most, title)
        for items, most, title in (
            (val_items, MOST_VAL, "reading validation images"),
            (train_items, MOST_TRAIN, "reading training images"),
        )
    )
    found = matches(val_images, train_images)
    pairs = [Pair(int(val[pair.val]), int(train[pair.train]), pair.score) for pair in found]
    return Duplicates(pairs, len(val), len(train))


def matches(val: np.ndarray, train: np.ndarray) -> list[Pair]:
    """The pairs of (N, SIDE, SIDE) and (M, SIDE, SIDE) uint8, grey; the most alike first."""
    pairs: list[Pair] = []
    if not len(val) or not len(train):
        return pairs
    coarse = torch.cat([differences(part, COARSE) for part in np.array_split(train, -(-len(train) // AT_ONCE))])
    for start in range(0, len(val), AT_ONCE):
        block = val[start : start + AT_ONCE]
        scores = differences(block, COARSE) @ coarse.T
        rows = torch.nonzero(scores.amax(dim=1) >= ALIKE)[:, 0]
        if not len(rows):
            continue
        nearest, places = scores[rows].topk(min(NEAREST + 1, len(train)), dim=1)
        best = places[:, 0]
        close = (differences(block[rows.numpy()], SIDE) * differences(train[best.numpy()], SIDE)).sum(dim=1)
        kept = (close >= SAME) | _stands_out(nearest)
        found = zip(rows[kept].tolist(), best[kept].tolist(), nearest[kept, 0].tolist(), strict=True)
        pairs += [Pair(start + row, place, min(score, 1.0)) for row, place, score in found]
    return sorted(pairs, key=lambda pair: -pair.score)


def _stands_out(scores: torch.Tensor) -> torch.Tensor:
    """(N,) bool: whether the best of (N, n) scores, the best first, is far above the last.

    Of simple shapes, as the digit 1, many are alike without being copies.
    """
    return (1 - scores[:, 0]) < APART * (1 - scores[:, -1])


def differences(images: np.ndarray, side: int) -> torch.Tensor:
    """(N, d) float32 of (N, SIDE, SIDE) uint8: the differences of neighbouring pixels at side x side.

    Rows have mean 0 and length 1, so that their product is the correlation; those of plain images are 0.
    """
    grey = F.interpolate(torch.from_numpy(images)[:, None].float(), (side, side), mode="area")
    values = torch.cat([grey.diff(dim=2).flatten(1), grey.diff(dim=3).flatten(1)], dim=1)
    values -= values.mean(dim=1, keepdim=True)
    length = values.norm(dim=1, keepdim=True)
    return torch.where(length > PLAIN * values.shape[1] ** 0.5, values / length, 0.0)


def _small(dataset: ImageData, items: Items, most: int, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (positions in the items, (N, SIDE, SIDE) uint8 in grey) of up to `most` images that can be read."""
    chosen = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    if (pixels := dataset.pixels([items[i] for i in chosen])) is not None:
        parts = [_shrunk(pixels[i : i + AT_ONCE]) for i in range(0, len(pixels), AT_ONCE)]
        return chosen, np.concatenate(parts)

    def small(index: int) -> np.ndarray | None:
        try:
            image = read(dataset.load(items[index][0]), SIDE, lambda size: (0, 0, *size))
        except UsageError:  # training and `check` tell of it
            return None
        return np.asarray(Image.fromarray(image).convert("L"))

    images = [image for part in in_threads(small, chosen.tolist(), title, cores()) for image in part]
    good = [number for number, image in enumerate(images) if image is not None]
    return chosen[good], _stacked([image for image in images if image is not None])


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(images) if images else np.zeros((0, SIDE, SIDE), np.uint8)


def _shrunk(images: np.ndarray) -> np.ndarray:
    """(N, H, W, C) uint8 as (N, SIDE, SIDE) in grey."""
    pixels = torch.from_numpy(images).float()
    grey = pixels @ torch.tensor([0.299, 0.587, 0.114]) if pixels.shape[3] == 3 else pixels[..., 0]
    small = F.interpolate(grey[:, None], (SIDE, SIDE), mode="bilinear", antialias=True)
    return small[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
