"""EpochBatchSampler of images: which ones, in which order; read from files by some processes, or taken from memory.

Order and augmentation are keyed, not streamed: the order of an epoch comes from (seed, epoch), the augmentation of
an image from (seed, epoch, index). The number of workers and an interruption change nothing of what is computed.
"""

import itertools
import multiprocessing
import os
import random
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from data import workers
from data.augment import Augment
from data.image_data import Items
from data.transforms import Preprocess
from utils.errors import UsageError
from utils.files import printable

Key = tuple[int, int]  # (epoch, index of the image)
Sample = tuple[np.ndarray, int, Key, list[str]]
TRIES = 20  # images of the same class that are tried in place of one that cannot be read


class ImageDataset(Dataset):
    """Reads images of `items`; cuts them at random, or to the middle square.

    Args:
        replace_bad: take another image of the same class where one cannot be read.
    """

    def __init__(self, items: Items, preprocess: Preprocess, seed: int, crop: bool, replace_bad: bool) -> None:
        self.items, self.preprocess, self.seed, self.crop = items, preprocess, seed, crop
        self.replace_bad = replace_bad

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample | UsageError:
        """Returns ((S, S, C) uint8, label, its key, what could not be read in its place).

        An error is handed on: one that a worker raises loses its line.
        """
        index = key[1]
        words, label, bad = f"{self.seed}/{key[0]}/{index}", self.items[index][1], []
        others = random.Random(words)
        while True:
            path = self.items[index][0]
            try:
                image = self.preprocess.train(path, words) if self.crop else self.preprocess.eval(path)
                return image, label, (key[0], index), bad
            except UsageError as e:
                if not self.replace_bad:
                    return e
                bad.append(str(e))
                if len(bad) > TRIES:
                    return UsageError(f"{len(bad)} images of one class cannot be read, the last: {e}")
                index = others.choice(self._of_class[label])

    @cached_property
    def _of_class(self) -> dict[int, list[int]]:
        indices = defaultdict(list)
        for index, (_, label) in enumerate(self.items):
            indices[label].append(index)
        return indices


class EpochBatchSampler(Sampler[list[Key]]):
    """The batches of one epoch at a time, as lists of (epoch, index); shuffled where there is a `seed`.

    Every image comes once an epoch; with `shares`, each is drawn with replacement, as often as its share says. A last
    batch of a single image joins the one before: BatchNorm cannot learn from one value.
    `epoch`, `start`: which epoch comes next, and how many of its images lie behind.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None = None, shares: list[float] | None = None) -> None:
        self.count, self.batch_size, self.seed, self.shares = count, batch_size, seed, shares
        self.epoch = self.start = 0

    @property
    def cuts(self) -> list[int]:
        """Where the batches begin, and the end."""
        cuts = [*range(self.start, self.count, self.batch_size), self.count]
        if len(cuts) > 2 and self.count - cuts[-2] == 1:
            del cuts[-2]
        return cuts

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[list[Key]]:
        order, cuts = range(self.count), self.cuts
        if self.seed is not None:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = self._drawn(rng) if self.shares else rng.permutation(self.count).tolist()
        keys = [(self.epoch, index) for index in order]
        return (keys[a:b] for a, b in zip(cuts, cuts[1:], strict=False))

    def _drawn(self, rng: np.random.Generator) -> list[int]:
        shares = np.array(self.shares)
        return rng.choice(self.count, self.count, p=shares / shares.sum()).tolist()


@dataclass
class Batch:
    """images (N, S, S, C) uint8; labels (N,) int64; indices (N,) int64: positions in the data set's items.

    bad: for each file that could not be read, and was replaced, one line.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    bad: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> "Batch":
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        images, labels = (x.to(device, non_blocking=True) for x in (self.images, self.labels))
        return replace(self, images=images, labels=labels)


def collate(samples: list[Sample | UsageError], augment: Augment | None = None) -> Batch | Exception:
    errors = [sample for sample in samples if isinstance(sample, UsageError)]
    if errors:
        return errors[0]
    images, labels, keys, bad = zip(*samples, strict=True)
    images, indices = torch.from_numpy(np.stack(images)), [index for _, index in keys]
    if augment:
        images = augment(images, keys[0][0], indices)
    batch = Batch(images, torch.tensor(labels), torch.tensor(indices), sum(bad, []))
    try:
        if get_worker_info():  # it would be shared later, where an error is lost
            batch.images.share_memory_()
    except RuntimeError as e:
        return workers.failure(e, 0, "") or e
    return batch


class EpochLoader:
    """What gives the batches of `items` by epochs, in the order of `batch_sampler`; a context that closes it."""

    items: Items
    batch_sampler: EpochBatchSampler

    def set_epoch(self, epoch: int, start: int = 0) -> "EpochLoader":
        """The loader itself, set to the images of `epoch` from position `start` on."""
        self.batch_sampler.epoch, self.batch_sampler.start = epoch, start
        return self

    def close(self) -> None:
        """Ends what it started."""

    def __enter__(self) -> "EpochLoader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class Loader(EpochLoader, DataLoader):
    """Reads the images from files; the worker processes stay alive between epochs.

    Args:
        augment: random crops, and these changes; None: the middle square.
        replace_bad: take another image of the same class where one cannot be read.
        pin: copy batches into page-locked memory, from where a GPU takes them without waiting.
        timeout: seconds that a batch may take to come from the workers.
    """

    def __init__(
        self,
        items: Items,
        preprocess: Preprocess,
        batches: EpochBatchSampler,
        num_workers: int = 0,
        augment: Augment | None = None,
        replace_bad: bool = False,
        pin: bool = False,
        timeout: float = 300,
    ) -> None:
        self.items, self.processes = items, set()
        weakref.finalize(self, _kill, self.processes)
        super().__init__(
            ImageDataset(items, preprocess, batches.seed or 0, augment is not None, replace_bad),
            batch_sampler=batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            collate_fn=partial(collate, augment=augment),
            pin_memory=pin,
            timeout=timeout if num_workers else 0,
            generator=torch.Generator(),  # torch draws a number each epoch: not from the training's numbers
            worker_init_fn=workers.init_worker,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches.

        Raises:
            UsageError: an image cannot be read.
            RunError: a worker process died, hangs, or has no shared memory left.
        """
        batches, number = None, 0
        while True:
            try:
                with workers.watchdog(self.timeout):
                    batches = batches or self._started()
                    batch = next(batches, None)
            except (RuntimeError, OSError, EOFError) as e:
                if failure := workers.failure(e, self.timeout, self._files_of(number)):
                    raise failure from e
                raise
            if isinstance(batch, Exception):
                raise batch
            if batch is None:
                return
            yield batch
            number += 1

    def _started(self) -> Iterator[Batch]:
        """torch's own iterator; starts the worker processes where there are none yet."""
        before = set(multiprocessing.active_children())
        with workers.block_signals():
            batches = super().__iter__()
        self.processes |= set(multiprocessing.active_children()) - before
        return batches

    def _files_of(self, number: int) -> str:
        """The first files of a batch, in words."""
        keys = next(itertools.islice(self.batch_sampler, number, None), [])
        paths = [printable(self.items[index][0]) for _, index in keys]
        return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

    def close(self) -> None:
        """Ends the worker processes at once, also those that hang, and torch's threads."""
        workers.end_watchdog()  # a stop may have been raised just where the watch was to end
        _kill(self.processes)
        if self._iterator is not None:
            with suppress(TimeoutError), workers.time_limit(2):  # a killed worker may have held a lock
                self._iterator._shutdown_workers()
            self._iterator = None


def collect_bad_images(batches: Iterable[Batch], bad: list[str]) -> Iterator[Batch]:
    """The batches; what could not be read, and was replaced, is added to `bad`."""
    for batch in batches:
        bad += batch.bad
        yield batch


def _kill(processes: set[multiprocessing.Process]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join(timeout=1)
    processes.clear()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
