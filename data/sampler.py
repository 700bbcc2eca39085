"""Which images come in which order."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch.utils.data import Sampler

from data.shard import Shard
from utils import world

Key = tuple[int, int, int]  # (epoch, index of the image, number of the draw)


class EpochBatchSampler(Sampler[list[Key]]):
    """The batches of one epoch, as lists of keys; shuffled by (seed, epoch) if there is a `seed`.

    A key says which image comes, and which random numbers its augmentation uses: those of its index, or where
    an image may be drawn several times in an epoch, those of the draw.

    A last batch of a single image joins the one before, unless all are so small: BatchNorm cannot normalize
    one value.

    Args:
        count: number of images.
        sample_weights: draw the images with replacement, with probabilities in proportion to these; None:
            every image comes once an epoch.
        accumulate: micro-batches in which a batch goes through the net.

    Attributes:
        epoch, start: which epoch comes next, and how many of its images to skip.
        dealt: whether each of several processes gets its shard of a batch, not all of it.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int | None = None,
        sample_weights: list[float] | None = None,
        accumulate: int = 1,
    ) -> None:
        self.count, self.batch_size, self.seed, self.sample_weights = count, batch_size, seed, sample_weights
        self.accumulate, self.dealt = accumulate, world.now.size > 1
        self.epoch = self.start = 0
        self._batches: list[list[Key]] = []

    @property
    def cuts(self) -> list[int]:
        """Where the batches begin, and the end."""
        cuts = [*range(self.start, self.count, self.batch_size), self.count]
        if len(cuts) > 2 and self.batch_size > 1 and self.count - cuts[-2] == 1:
            del cuts[-2]
        return cuts

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __iter__(self) -> Iterator[list[Key]]:
        cuts, order = self.cuts, self._order()
        draws = order if self.sample_weights is None else range(self.count)
        keys = [(self.epoch, index, draw) for index, draw in zip(order, draws, strict=True)]
        if not self.dealt:
            return (keys[a:b] for a, b in zip(cuts, cuts[1:], strict=False))
        self._batches, self._starts = [keys[a:b] for a, b in zip(cuts, cuts[1:], strict=False)], cuts
        return ([batch[place] for place in self._shard(batch).places] for batch in self._batches)

    def shard(self, number: int) -> Shard | None:
        """This process's shard of the batch of this number in the epoch under way; None where it has all of it."""
        if not self.dealt:
            return None
        batch = self._batches[number]
        return self._shard(batch).at(self._starts[number], tuple(index for _, index, _ in batch))

    def _shard(self, batch: list[Key]) -> Shard:
        return Shard.of(len(batch), self.accumulate, world.now.rank, world.now.size)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """In the block this process gets whole batches."""
        dealt, self.dealt = self.dealt, False
        try:
            yield
        finally:
            self.dealt = dealt

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(self.count))
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.sample_weights is None:
            return rng.permutation(self.count).tolist()
        weights = np.array(self.sample_weights)
        return rng.choice(self.count, self.count, p=weights / weights.sum()).tolist()
