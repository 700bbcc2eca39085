"""What is done to training images a batch at a time: mirrored, shifted, covered in part."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch


@dataclass(frozen=True)
class Augment:
    """Random changes that are keyed by (seed, epoch, index of the image), whatever batch it comes in.

    Attributes:
        count: images in the data set.
        flip: mirror each image in every other epoch (Jordan 2024, arXiv:2404.00498, section 3.6).
        shift: move by up to so many pixels in both directions; the border is reflected.
        cutout: side in pixels of a square that is covered with `fill` (DeVries, Taylor 2017, arXiv:1708.04552).
        fill: a value for each channel.
    """

    seed: int
    count: int
    flip: bool = False
    shift: int = 0
    cutout: int = 0
    fill: tuple[int, ...] = (0,)

    def __call__(self, images: torch.Tensor, epoch: int, indices: list[int]) -> torch.Tensor:
        """(B, S, S, C) uint8 -> the same."""
        count, side = images.shape[:2]
        drawn = torch.from_numpy(uniform(self.seed, epoch, self.count)[indices])  # (B, 4)
        mirrored = torch.zeros(count, dtype=torch.bool)
        if self.flip:
            mirrored = torch.from_numpy(self._mirrored_first[indices] ^ bool(epoch % 2))
        if self.shift:
            moves = (drawn[:, :2, None] * (2 * self.shift + 1)).long() - self.shift  # (B, 2, 1)
            rows, cols = _reflect(torch.arange(side) + moves, side).unbind(1)  # (B, S) each
            cols = torch.where(mirrored[:, None], side - 1 - cols, cols)
            which, rows, cols = (x.to(images.device) for x in (torch.arange(count), rows, cols))
            images = images[which[:, None, None], rows[:, :, None], cols[:, None, :]]
        elif self.flip:  # the same without moving, in half the time
            images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(2), images)
        if self.cutout:
            centre = (drawn[:, 2:] * side).long()  # (B, 2)
            near = (torch.arange(side) - centre[:, :, None] + self.cutout // 2).to(images.device)  # (B, 2, S)
            covered = (near >= 0) & (near < self.cutout)
            covered = (covered[:, 0, :, None] & covered[:, 1, None, :])[..., None]
            images = torch.where(covered, images.new_tensor(self.fill), images)
        return images

    @cached_property
    def _mirrored_first(self) -> np.ndarray:
        """(N,) bool: whether an image is mirrored in the first epoch."""
        return uniform(self.seed, -1, self.count)[:, 0] < 0.5


@lru_cache(maxsize=4)
def uniform(seed: int, epoch: int, count: int) -> np.ndarray:
    """(count, 4) float32 in [0, 1): the numbers of each image in an epoch; more images change nothing of the first."""
    return np.random.default_rng((seed, epoch + 1)).random((count, 4), dtype=np.float32)


def _reflect(places: torch.Tensor, side: int) -> torch.Tensor:
    """Places outside of [0, side) mirrored at the border pixels."""
    return (side - 1) - ((side - 1) - places.abs()).abs()
