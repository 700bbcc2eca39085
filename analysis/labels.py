"""Do the labels belong to the images? Images that look alike share a label more often than chance, if they do."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from analysis.check import row
from config import Config
from data.image_data import ImageData, Items
from data.loaders import EpochBatchSampler, Loader
from data.transforms import Preprocess
from utils.progress import with_progress

IMAGES, FEWEST = 1000, 200  # that are compared; with fewer than FEWEST nothing can be said
SIDE, NEIGHBOURS, SHUFFLES = 8, 10, 200
CLEAR = 4.0  # standard deviations above chance: labels that say nothing get there once in 30,000 times


@dataclass(frozen=True)
class Agreement:
    """How many of an image's nearest neighbours have its label, in [0, 1]; the same for shuffled labels: mean, spread.

    Attributes:
        score: standard deviations above chance.
    """

    found: float
    chance: float
    spread: float

    @property
    def score(self) -> float:
        return (self.found - self.chance) / max(self.spread, 1e-9)

    @property
    def clear(self) -> bool:
        return self.score > CLEAR


def report(opt: Config, dataset: ImageData, preprocess: Preprocess, items: Items) -> None:
    """Prints whether the labels of up to IMAGES images, spread evenly over `items`, belong to them."""
    every = max(len(items) // IMAGES, 1)
    chosen = items[::every][:IMAGES]
    if len(chosen) < FEWEST:
        row("labels", f"{len(chosen)} images are too few to tell whether the labels belong to them")
        return
    found = agreement(*read(opt, dataset, preprocess, chosen))
    share = (
        f"of an image's {NEIGHBOURS} nearest neighbours {found.found:.1%} have its label, by chance {found.chance:.1%}"
    )
    if found.clear:
        row("labels", f"belong to the images: {share} ({found.score:.0f} standard deviations)")
    else:
        row("labels", f"note: no sign that they belong to the images: {share}. Shuffled labels look like this,")
        row("", "and so may classes that differ in small details alone: look at some images and their labels")


def read(opt: Config, dataset: ImageData, preprocess: Preprocess, items: Items) -> tuple[torch.Tensor, torch.Tensor]:
    """The items as (N, 32, 32, C) uint8, and their labels (N,)."""
    small = replace(preprocess, image_size=4 * SIDE)
    sampler = EpochBatchSampler(len(items), 50)
    with Loader(items, small, sampler, on_bad=opt.on_bad_image, dataset=dataset) as loader:
        batches = list(with_progress(loader.set_epoch(0), "comparing neighbours", len(items)))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


def agreement(images: torch.Tensor, labels: torch.Tensor) -> Agreement:
    """By the nearest neighbours in SIDE x SIDE pixels, each image with mean 0 and deviation 1.

    Args:
        images: (N, S, S, C) uint8. labels: (N,).
    """
    pixels = F.interpolate(images.permute(0, 3, 1, 2).float(), (SIDE, SIDE), mode="bilinear", antialias=True).flatten(1)
    pixels = (pixels - pixels.mean(dim=1, keepdim=True)) / (pixels.std(dim=1, keepdim=True) + 1)
    distances = torch.cdist(pixels, pixels).fill_diagonal_(torch.inf)
    neighbours = distances.topk(NEIGHBOURS, largest=False).indices
    rng = torch.Generator().manual_seed(0)

    def share(labels: torch.Tensor) -> float:
        return (labels[neighbours] == labels[:, None]).float().mean().item()

    shuffled = torch.tensor([share(labels[torch.randperm(len(labels), generator=rng)]) for _ in range(SHUFFLES)])
    return Agreement(share(labels), shuffled.mean().item(), shuffled.std().item())
