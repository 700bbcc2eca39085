"""A batch of images, and how it is put together."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import get_worker_info

from data import workers
from data.augment import Augment
from data.sampler import Key
from data.shard import Piece, Shard
from utils.errors import UsageError

UNREADABLE = -2  # the label of an image that cannot be read, where its place is to stay
Sample = tuple[np.ndarray, int, Key, list[str]]  # ((S, S, C) uint8, label, key, errors of images it replaces)


@dataclass
class Batch:
    """images (N, S, S, C) uint8; labels (N,) int64; indices (N,) int64: positions in the data set's items.

    Where several processes train together the tensors hold the images of this one, and `len` is still the number of
    images in the whole batch.

    bad: one line for each image that could not be read and was replaced.
    shard: which part of the whole batch this is; None: all of it.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    bad: list[str] = field(default_factory=list)
    shard: Shard | None = None

    def __len__(self) -> int:
        return self.shard.total if self.shard else len(self.labels)

    @property
    def all_labels(self) -> torch.Tensor:
        """The labels of the whole batch, on the CPU where it is in parts."""
        return self.labels if self.shard is None or self.shard.labels is None else self.shard.labels

    @property
    def counting(self) -> torch.Tensor | slice:
        """Picks the images that count: a process without an image of its own has one that does not."""
        return self.shard.counting if self.shard else slice(None)

    @property
    def positions(self) -> torch.Tensor:
        """Numbers by which the images that count can be put in the epoch's order."""
        return self.shard.positions if self.shard else torch.arange(len(self.labels))

    def pieces(self, accumulate: int = 1) -> tuple[Piece, ...]:
        """What goes through the net at once, of a batch in up to so many micro-batches."""
        return (self.shard or Shard.of(len(self), accumulate)).pieces

    def pin_memory(self) -> "Batch":
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        images, labels = (x.to(device, non_blocking=True) for x in (self.images, self.labels))
        return replace(self, images=images, labels=labels)


def collate(samples: list[Sample | UsageError], augment: Augment | None = None) -> Batch | Exception:
    """The batch of `samples`; returns errors, since a worker would wrap a raised one in a traceback."""
    good = []
    for sample in samples:
        if isinstance(sample, UsageError):
            return sample
        good.append(sample)
    images, labels, keys, bad = zip(*good, strict=True)
    pixels, (epochs, indices, draws) = torch.from_numpy(np.stack(images)), zip(*keys, strict=True)
    if augment:
        pixels = augment(pixels, epochs[0], list(draws))
    batch = Batch(pixels, torch.tensor(labels), torch.tensor(indices), sum(bad, []))
    try:
        if get_worker_info():  # torch would share it later, where an error gets lost
            batch.images.share_memory_()
    except RuntimeError as e:
        return workers.failure(e, 0, "") or e
    return batch


def collect_bad_images(batches: Iterable[Batch], bad: list[str]) -> Iterator[Batch]:
    """Yields the batches, and appends their lines about replaced images to `bad`."""
    for batch in batches:
        bad += batch.bad
        yield batch
