"""Batches of images: which ones, in which order, read by how many processes.

Order and augmentation are keyed, not streamed: the order of an epoch comes from (seed, epoch), the augmentation of
an image from (seed, epoch, index). The number of workers and an interruption change nothing of what is computed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.image_data import Items
from data.transforms import Preprocess
from utils.errors import UsageError

Key = tuple[int, int]  # (epoch, index of the image)
Sample = tuple[np.ndarray, int, int]


class Images(Dataset):
    """Reads images of `items`; augments them, or only cuts them to the middle square."""

    def __init__(self, items: Items, preprocess: Preprocess, seed: int, augment: bool) -> None:
        self.items, self.preprocess, self.seed, self.augment = items, preprocess, seed, augment

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample | UsageError:
        """Returns ((S, S, 3) uint8, label, index); an error is handed on: one that a worker raises loses its line."""
        epoch, index = key
        path, label = self.items[index]
        try:
            if self.augment:
                return self.preprocess.train(path, key=f"{self.seed}/{epoch}/{index}"), label, index
            return self.preprocess.eval(path), label, index
        except UsageError as e:
            return e


class Batches(Sampler[list[Key]]):
    """The batches of one epoch at a time, as lists of (epoch, index); shuffled where there is a `seed`.

    Every image comes once an epoch. A last batch of a single image joins the one before: BatchNorm cannot
    learn from one value.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None = None) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0
        self.cuts = list(range(0, count, batch_size)) + [count]
        if len(self.cuts) > 2 and count - self.cuts[-2] == 1:
            del self.cuts[-2]

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[list[Key]]:
        order = range(self.count)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count).tolist()
        keys = [(self.epoch, index) for index in order]
        return (keys[a:b] for a, b in zip(self.cuts, self.cuts[1:], strict=False))


@dataclass
class Batch:
    """images (N, S, S, 3) uint8; labels (N,) int64; indices (N,) int64: positions in the data set's items."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices)

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.images.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), self.indices)


def collate(samples: list[Sample | UsageError]) -> Batch | UsageError:
    errors = [sample for sample in samples if isinstance(sample, UsageError)]
    if errors:
        return errors[0]
    images, labels, indices = zip(*samples, strict=True)
    return Batch(torch.from_numpy(np.stack(images)), torch.tensor(labels), torch.tensor(indices))


class Loader(DataLoader):
    """Batches of `items`. `at(epoch)` gives those of one epoch; the worker processes stay alive between epochs.

    Args:
        seed: shuffles; None keeps the order of `items`.
        augment: random crops and mirrors, else the middle square.
        pin: copy batches into page-locked memory, from where a GPU takes them without waiting.
    """

    def __init__(
        self,
        items: Items,
        preprocess: Preprocess,
        batch_size: int,
        workers: int = 0,
        seed: int | None = None,
        augment: bool = False,
        pin: bool = False,
    ) -> None:
        self.items = items
        super().__init__(
            Images(items, preprocess, seed or 0, augment),
            batch_sampler=Batches(len(items), batch_size, seed),
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
            pin_memory=pin,
            worker_init_fn=_quiet_worker,
        )

    def at(self, epoch: int) -> "Loader":
        self.batch_sampler.epoch = epoch
        return self

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if isinstance(batch, UsageError):
                raise batch
            yield batch


def _quiet_worker(_: int) -> None:
    """A worker uses one thread, and gives way to the training threads on a machine whose cores they share."""
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(5)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
