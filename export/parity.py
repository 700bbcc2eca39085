"""Whether a file answers as the net does that it was made from: on images of the validation part, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from data.batch import Batch
from data.image_data import ImageData
from data.loaders import EpochLoader
from engine.tasks.base import Task
from utils.errors import RunError
from utils.progress import with_progress
from utils.text import counted, printable

LIMIT = 1e-4  # of a difference of logits, as part of the largest one where that is above 1, and of probabilities
SIZES = {17: 10, 2: 17, 1: 17}  # how many images at once: how many such batches
IMAGES = max(size * count for size, count in SIZES.items())


@dataclass
class Parity:
    """The largest differences between two nets over some images, or latents.

    Attributes:
        images: how many. logits, probabilities: the largest differences; of a net that gives no logits there is None.
        scale: the largest logit. changed: images whose class is another.
    """

    images: int = 0
    logits: float | None = None
    probabilities: float = 0.0
    scale: float = 0.0
    changed: int = 0
    what: str = "image"

    @property
    def holds(self) -> bool:
        relative = (self.logits or 0.0) / max(self.scale, 1.0)
        return relative <= LIMIT and self.probabilities <= LIMIT  # NaN does not

    def __str__(self) -> str:
        told = f"{counted(self.images, self.what)}: largest difference "
        told += f"of logits {self.logits:.1e} (of up to {self.scale:.3g}), " if self.logits is not None else ""
        if self.what != "image":
            return f"{told}{self.probabilities:.1e} (of values in [-1, 1])"
        return f"{told}of probabilities {self.probabilities:.1e}, classes changed: {self.changed}"

    def checked(self, who: str) -> "Parity":
        """Raises RunError where the differences are above LIMIT."""
        if not self.holds:
            raise RunError(
                f"{who} answers otherwise than the net: {self}; at most {LIMIT:.0e} is allowed: nothing is written"
            )
        return self


@dataclass
class Sample:
    """Images of the validation part: (N, S, S, C) uint8, and the logits (N, K) float32 of the net for them."""

    images: torch.Tensor
    logits: torch.Tensor
    paths: list[Path]

    @classmethod
    def of(cls, task: Task, loader: EpochLoader) -> "Sample":
        """Those of a loader."""
        shown = with_progress(loader.set_epoch(0), "asking the net", len(loader.items))
        batches, logits = zip(*task.predict(shown), strict=True)
        indices = torch.cat([batch.indices for batch in batches]).tolist()
        images = torch.cat([batch.images.cpu() for batch in batches])
        return cls(images, torch.cat(logits), [loader.items[index][0] for index in indices])

    def batches(self, size: int, count: int) -> Iterator[Batch]:
        """Up to `count` batches of `size` images."""
        for start in range(0, min(size * count, len(self.images)), size):
            some = self.images[start : start + size]
            yield Batch(some, torch.full((len(some),), -1), torch.arange(start, start + len(some)))


def with_net(task: Task, net: nn.Module) -> Task:
    """The task with another net, on its device; of its class, as `val` makes it of a file."""
    return type(task)(net, task.classes, task.preprocess, task.device, task.opt)


def compare(sample: Sample, task: Task, log_odds: bool = False, sizes: dict[int, int] | None = None) -> Parity:
    """The answers of another net for the images of a sample, in batches of several sizes.

    Args:
        task: with that net. log_odds: it gives logarithms of probabilities in place of logits.
    """
    found = Parity(len(sample.images), None if log_odds else 0.0, scale=float(sample.logits.abs().max()))
    changed: set[int] = set()
    for size, count in (sizes or SIZES).items():
        images = min(size * count, len(sample.images))
        batches = with_progress(sample.batches(size, count), f"comparing in batches of {size}", images)
        for batch, logits in task.predict(batches):
            own = sample.logits[batch.indices]
            if found.logits is not None:
                found.logits = _worst(found.logits, own - logits)
            found.probabilities = _worst(found.probabilities, own.softmax(dim=1) - logits.softmax(dim=1))
            changed |= set(batch.indices[own.argmax(dim=1) != logits.argmax(dim=1)].tolist())
    found.changed = len(changed)
    return found


@torch.inference_mode()
def compare_generators(task: Any, net: Any, pixels: bool) -> Parity:
    """The images of a file's net for the latents of a seed against those of the task's generator."""
    found = Parity(what="latent vector")
    for size, count in SIZES.items():
        latents = torch.cat(list(task.latents(size * count, task.opt.seed)))
        for some in latents.split(size):
            own = task.sample(some).float().cpu()
            other = net(some.flatten(1))
            other = other.permute(0, 3, 1, 2) / 127.5 - 1 if pixels else other
            difference = own - other
            if pixels:  # half of a level is rounding, and so may be one more where it falls between two
                difference = (difference.abs() - 1.01 / 127.5).clamp(min=0)
            found.probabilities = _worst(found.probabilities, difference)
        found.images = max(found.images, len(latents))
    return found


def _worst(so_far: float, differences: torch.Tensor) -> float:
    """NaN stays."""
    return float(torch.tensor([so_far, float(differences.abs().max())]).max())


def reading(sample: Sample, dataset: ImageData, task: Task) -> tuple[int, list[str]]:
    """How predict.py reads the image files of a sample.

    Returns:
        How many images are files, and a line for each whose pixels differ by more than 1 of 255.
    """
    from export import predict

    own, files, lines = task.preprocess, 0, []
    for path, image in zip(sample.paths, sample.images, strict=True):
        if not isinstance(dataset.load(path), Path):
            continue
        files += 1
        try:
            pixels = predict.read(path, own.image_size, own.crop_pct, own.interpolation, len(own.mean))
            largest = int(np.abs(pixels.astype(int) - image.numpy()).max())
            why = f"pixels differ by up to {largest}" if largest > 1 else ""
        except Exception as e:
            why = f"{type(e).__name__}: {e}"
        if why:
            with Image.open(path) as opened:
                lines.append(f"{printable(path)} ({opened.format} {opened.mode}): {why}")
    return files, lines
