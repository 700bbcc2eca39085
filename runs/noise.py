"""Whether two rows differ by more than the noise of their seeds. Imports no torch."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runs.table import Row
from utils.text import counted

STEPS = 500  # of the integral
LEVEL = 0.05  # a difference that noise alone makes less often than this is more than noise


@dataclass(frozen=True)
class Difference:
    """How far a row is from another in the monitored metric.

    Attributes:
        other: the row it is compared with.
        value: its mean minus the other's; where the seeds are paired, over those that both have.
        test: which test of how many seeds; "" where there is none.
        p: how probable so large a difference is by noise alone, two-sided; None where one seed cannot tell.
    """

    other: Row
    value: float
    test: str = ""
    p: float | None = None

    @property
    def verdict(self) -> str:
        if self.p is None:
            return "cannot tell"
        return "more than noise" if self.p < LEVEL else "no more than noise"

    @property
    def mark(self) -> str:
        """The verdict in a column; the other is the best."""
        if self.p is None:
            return "1 seed"
        if self.p >= LEVEL:
            return "≈ best"
        return "better" if (self.value < 0) == self.other.falls else "worse"


def difference(row: Row, other: Row) -> Difference | None:
    """The difference of two rows by the monitored metric; None where they have none in common.

    Paired by seed where at least 2 seeds are in both: the seed fixes the split, the first weights and the order, so
    much of the noise is in both and cancels (Student's t of the differences). Else Welch's t, for unequal variances
    (Welch, "The generalization of Student's problem", Biometrika 34, 1947).
    """
    if row.monitor != other.monitor or row.best is None or other.best is None:
        return None
    mine, theirs = _by_seed(row), _by_seed(other)
    both = [seed for seed in mine if seed in theirs]
    if len(both) >= 2:
        values = [mine[seed] - theirs[seed] for seed in both]
        mean = statistics.fmean(values)
        error = _deviation(values, row, math.sqrt(2)) / math.sqrt(len(values))
        return Difference(other, mean, f"paired by {len(both)} seeds (Student's t)", _p(mean, error, len(values) - 1))
    value = row.best - other.best
    if len(mine) < 2 or len(theirs) < 2:
        return Difference(other, value)
    parts = [_deviation(list(some), row) ** 2 / len(some) for some in (mine.values(), theirs.values())]
    freedom = 1.0
    if sum(parts) > 0:  # Welch-Satterthwaite
        shares = [part / sum(parts) for part in parts]
        freedom = 1 / sum(share**2 / (len(some) - 1) for share, some in zip(shares, (mine, theirs), strict=True))
    test = f"{len(mine)} and {counted(len(theirs), 'seed')} (Welch's t)"
    return Difference(other, value, test, _p(value, math.sqrt(sum(parts)), freedom))


def _by_seed(row: Row) -> dict[str, float]:
    return {run.seed: run.best for run in row.runs if run.best is not None}


def _deviation(values: Sequence[float], row: Row, roundings: float = 1.0) -> float:
    """The standard deviation; where all values are equal, as accuracies on few images are, that of their rounding.

    Args:
        roundings: how many times as large as that of one value the rounding is.
    """
    deviation, images = statistics.stdev(values), row.images[1]
    if deviation <= 1e-6 * max(map(abs, values)) and isinstance(images, int) and images > 0:
        return roundings / (images * math.sqrt(12))  # uniform between two neighbours, 1 / images apart
    return deviation


def _p(mean: float, error: float, freedom: float) -> float:
    """Two-sided p of Student's t distribution of `freedom` >= 1 degrees.

    With t = tan(a) * sqrt(freedom) its density is that of cos(a) ** (freedom - 1), which Simpson's rule integrates from
    0 on: to 3e-6 or better, and without a library that takes longer to import than the runs to read.
    """
    if error <= 0:
        return 1.0 if mean == 0 else 0.0
    step = math.atan(abs(mean) / error / math.sqrt(freedom)) / STEPS
    heights = [math.cos(number * step) ** (freedom - 1) for number in range(STEPS + 1)]
    within = step / 3 * (heights[0] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]) + heights[-1])
    half = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    return max(1 - within / half, 0.0)


def against_best(rows: list[Row]) -> dict[Row, Difference]:
    """Each row against the best group of several seeds on the same data by the same metric, which itself has none.

    Empty where there are no groups: runs of one seed each cannot tell.
    """
    best: dict[Any, Row] = {}
    for row in rows:
        if row.seeds and row.best is not None:
            key = _problem(row)
            sign = -1 if row.falls else 1
            if key not in best or sign * row.best > sign * (best[key].best or 0):
                best[key] = row
    others = {row: best[_problem(row)] for row in rows if best.get(_problem(row), row) is not row}
    found = {row: difference(row, other) for row, other in others.items()}
    return {row: one for row, one in found.items() if one}


def against_first(rows: list[Row]) -> dict[Row, Difference]:
    """Each row against the first one."""
    found = {row: difference(row, rows[0]) for row in rows[1:]}
    return {row: one for row, one in found.items() if one}


def _problem(row: Row) -> tuple[str, ...]:
    return (*(str(row.option(name)) for name in ("dataset", "train_data_root")), row.monitor)
