"""Which images of a batch are one process's, where several train together."""

from dataclasses import dataclass, field, replace

import torch


@dataclass(frozen=True)
class Piece:
    """What a process has of a micro-batch, the part of a batch that goes through the net at once.

    Attributes:
        rows: its images in the process's tensors.
        start: the place of the first of them in the micro-batch, which has `total` images over all processes.
        counts: False where the process has none of its own: then it goes along with one that counts 0.
    """

    rows: slice
    start: int
    total: int
    counts: bool = True

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def weight(self) -> float:
        """What a mean over these images counts in the mean over the micro-batch."""
        return len(self) / self.total if self.counts else 0.0


@dataclass(frozen=True)
class Shard:
    """The part of a batch of `total` images that is one process's.

    Attributes:
        pieces: one for each micro-batch. places: of its images in the batch, those of all pieces.
        start: where the batch begins in the epoch.
        indices, labels: of the whole batch: positions in the items, and (total,) int64.
    """

    total: int
    pieces: tuple[Piece, ...]
    places: tuple[int, ...]
    start: int = 0
    indices: tuple[int, ...] = ()
    labels: torch.Tensor | None = field(default=None, compare=False)

    @classmethod
    def of(cls, total: int, accumulate: int = 1, rank: int = 0, size: int = 1) -> "Shard":
        """What process `rank` of `size` has of a batch that goes through the net in up to `accumulate` micro-batches.

        The micro-batches are those of one process, for BatchNorm takes its statistics over each of them.
        """
        pieces: list[Piece] = []
        places: list[int] = []
        for start, stop in cuts(0, total, max(min(accumulate, total // 2), 1)):  # BatchNorm needs two images
            first, last = cuts(start, stop, size)[rank]
            own = range(first, last) or range(start, start + 1)
            rows = slice(len(places), len(places) + len(own))
            pieces.append(Piece(rows, own.start - start, stop - start, last > first))
            places += own
        return cls(total, tuple(pieces), tuple(places))

    @property
    def counting(self) -> torch.Tensor:
        """(n,) bool: which of its images count."""
        return torch.tensor([piece.counts for piece in self.pieces for _ in range(len(piece))])

    @property
    def positions(self) -> torch.Tensor:
        """Where those of its images that count stand in the epoch."""
        return (torch.tensor(self.places) + self.start)[self.counting]

    def at(self, start: int, indices: tuple[int, ...]) -> "Shard":
        """The shard of the batch that begins there in the epoch and has these images."""
        return replace(self, start=start, indices=indices)


def cuts(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """[start, stop) in so many parts of equal length; the first ones are one longer where it does not divide."""
    each, more = divmod(stop - start, parts)
    ends = [start + i * each + min(i, more) for i in range(parts + 1)]
    return list(zip(ends, ends[1:], strict=False))
