"""Reads images of which nobody knows how many there are, by worker processes and in the order in which they come."""

import itertools
from collections.abc import Iterable, Iterator

from torch.utils.data import Dataset

from data.batch import UNREADABLE, Batch, Sample
from data.loaders import Loader
from data.sources import Source
from data.transforms import Preprocess
from utils.errors import UsageError
from utils.text import printable

Key = tuple[int, Source]  # the image's number


class Reader(Dataset):
    """The middle squares of single images; black pixels, labelled UNREADABLE, of those that cannot be read."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __getitem__(self, key: Key) -> Sample:
        number, source = key
        try:
            return self.preprocess.eval(source), -1, (0, number, 0), []
        except UsageError as e:
            return self.preprocess.blank(), UNREADABLE, (0, number, 0), [str(e)]


class Batches:
    """Lists of keys, full but where no more sources are there yet (None); keeps those whose batch was not taken."""

    def __init__(self, sources: Iterable[Source | None], batch_size: int) -> None:
        self.sources, self.batch_size = sources, batch_size
        self.pending: dict[int, Source] = {}

    def __iter__(self) -> Iterator[list[Key]]:
        keys: list[Key] = []
        numbers = itertools.count()
        for source in self.sources:
            if source is not None:
                number = next(numbers)
                self.pending[number] = source
                keys.append((number, source))
            if keys and (source is None or len(keys) == self.batch_size):
                yield keys
                keys = []
        if keys:
            yield keys

    def shard(self, number: int) -> None:
        """No other process has a part of it."""


class Stream(Loader):
    """Batches of images that are read as they come; see Loader, whose faults it tells as well.

    Args:
        sources: asked for no more of them than are being read; None: what is there is to be read without waiting.
    """

    def __init__(
        self,
        sources: Iterable[Source | None],
        preprocess: Preprocess,
        batch_size: int,
        num_workers: int = 0,
        pin: bool = False,
        timeout: float = 300,
    ) -> None:
        self.batches = Batches(sources, batch_size)
        self._read(Reader(preprocess), self.batches, num_workers, pin, timeout)

    def __enter__(self) -> "Stream":
        return self

    def take(self, batch: Batch) -> list[Source]:
        """The sources of a batch; once."""
        return [self.batches.pending.pop(number) for number in batch.indices.tolist()]

    def _files_of(self, number: int) -> str:
        names = [printable(source.name) for source in self.batches.pending.values()]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
