"""Loaders give the batches of an epoch; `Loader` reads the images with worker processes.

Order and augmentation are determined by keys, not by streams of random numbers: the order of an epoch by
(seed, epoch), the augmentation of an image by (seed, epoch, draw). The number of workers, or an
interruption, changes nothing of what is computed.
"""

import itertools
import multiprocessing
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data import workers
from data.augment import Augment
from data.batch import Batch, collate, collect_bad_images
from data.image_data import ImageData, Items
from data.image_dataset import ImageDataset
from data.sampler import EpochBatchSampler
from data.transforms import Preprocess
from utils.text import printable
from utils.world import cores

__all__ = [
    "Batch",
    "EpochBatchSampler",
    "EpochLoader",
    "ImageDataset",
    "Loader",
    "collect_bad_images",
    "cores",
]


class EpochLoader(ABC):
    """Gives the batches of `items` in the order of `batch_sampler`, epoch by epoch; a context manager."""

    items: Items
    batch_sampler: EpochBatchSampler

    def set_epoch(self, epoch: int, start: int = 0) -> "EpochLoader":
        """Sets the next epoch, and how many of its images to skip; returns the loader itself."""
        self.batch_sampler.epoch, self.batch_sampler.start = epoch, start
        return self

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of the epoch that `set_epoch` has set."""

    def _dealt(self, batch: Batch, number: int) -> Batch:
        """The batch of this number, with what is said of the whole one where this is a part of it."""
        shard = self.batch_sampler.shard(number)
        if shard is None:
            return batch
        labels = torch.tensor([self.items[index][1] for index in shard.indices])
        return replace(batch, shard=replace(shard, labels=labels))

    def close(self) -> None:  # noqa: B027 - a loader without processes has nothing to end
        """Ends the worker processes, if there are any."""

    def __enter__(self) -> "EpochLoader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Loader(EpochLoader, DataLoader):  # type: ignore[misc]  # batch_sampler is of a narrower type
    """Reads the images from files; the worker processes stay alive between epochs.

    Args:
        augment: take random crops and augment them; None: take the middle square.
        on_bad: what to do with an image that cannot be read, see ImageDataset.
        pin: copy batches into page-locked memory, so that they go to a GPU asynchronously.
        timeout: seconds to wait for a batch from the workers.
        dataset: where `items` come from; None: they are image files.
    """

    def __init__(
        self,
        items: Items,
        preprocess: Preprocess,
        batch_sampler: EpochBatchSampler,
        num_workers: int = 0,
        augment: Augment | None = None,
        on_bad: str = "fail",
        pin: bool = False,
        timeout: float = 300,
        dataset: ImageData | None = None,
    ) -> None:
        self.items = items
        images = ImageDataset(items, preprocess, batch_sampler.seed or 0, augment is not None, on_bad, dataset)
        self._read(images, batch_sampler, num_workers, pin, timeout, augment, persistent_workers=num_workers > 0)

    def _read(
        self,
        images: Dataset,
        batches: Iterable[Any],
        num_workers: int,
        pin: bool,
        timeout: float,
        augment: Augment | None = None,
        persistent_workers: bool = False,
    ) -> None:
        """Makes it a DataLoader whose worker processes end with it."""
        self.processes: set[multiprocessing.process.BaseProcess] = set()
        weakref.finalize(self, _kill, self.processes)
        DataLoader.__init__(
            self,
            images,
            batch_sampler=batches,
            num_workers=num_workers,
            persistent_workers=persistent_workers,
            collate_fn=partial(collate, augment=augment),
            pin_memory=pin,
            timeout=timeout if num_workers else 0,
            generator=torch.Generator(),  # each epoch draws a number from it; not from the default generator
            worker_init_fn=workers.init_worker,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yields the batches.

        Raises:
            UsageError: an image cannot be read.
            RunError: a worker process died, hangs, or has no shared memory left.
        """
        batches, number = None, 0
        while True:
            try:
                with workers.watchdog(self.timeout):
                    batches = self._started() if batches is None else batches
                    batch = next(batches, None)
            except (RuntimeError, OSError, EOFError) as e:
                if failure := workers.failure(e, self.timeout, self._files_of(number)):
                    raise failure from e
                raise
            if isinstance(batch, Exception):
                raise batch
            if batch is None:
                return
            yield self._dealt(batch, number)
            number += 1

    def _started(self) -> Iterator[Batch]:
        """torch's own iterator; starts the worker processes unless they run already."""
        before = set(multiprocessing.active_children())
        with workers.block_signals():
            batches = DataLoader.__iter__(self)
        self.processes |= set(multiprocessing.active_children()) - before
        return batches

    def _files_of(self, number: int) -> str:
        """The first files of a batch, as text."""
        keys = next(itertools.islice(self.batch_sampler, number, None), [])
        paths = [printable(self.items[index][0]) for _, index, _ in keys]
        return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

    def close(self) -> None:
        """Ends the worker processes at once, even if they hang, and torch's threads."""
        workers.end_watchdog()  # a signal may have interrupted the watchdog before it ended
        _kill(self.processes)
        if self._iterator is not None:
            with suppress(TimeoutError), workers.time_limit(2):  # a killed worker may have held a lock
                self._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._iterator = None


def _kill(processes: set[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join(timeout=1)
    processes.clear()
