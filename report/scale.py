"""The axes of a chart: limits, ticks, and how many points a line needs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COLUMNS = 300  # of a chart, in each of which a line keeps its lowest and its highest point
TINY, HUGE = 1e-290, 1e290  # beyond them there is no axis
ROOM = 0.04  # of the range, above and below


@dataclass
class Scale:
    """One axis, from `low` to `high`."""

    low: float
    high: float
    ticks: list[float]
    log: bool = False

    @classmethod
    def of(cls, values: Iterable[Any], log: bool = False, room: bool = False) -> "Scale":
        """The axis that shows all values. room: leave some at both ends."""
        every = np.concatenate([np.asarray(v, dtype=float) for v in values])
        every = every[np.isfinite(every) & ((every > 0) | (not log))]
        low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
        if log:
            return cls(low / 1.2, high * 1.2, _decades(low / 1.2, high * 1.2), True)
        if high - low <= max(1e-12 * max(abs(low), abs(high)), TINY):
            low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
        extra = ROOM * (high - low) if room else 0
        whole = not room and bool((every == every.round()).all())  # as epochs: no ticks between
        return cls(low - extra, high + extra, _nice(low - extra, high + extra, whole))

    def part(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(max(value, self.low)) if self.log else value
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def text(self, tick: float) -> str:
        """The tick with as many digits as tell it from its neighbours."""
        largest = max(map(abs, self.ticks), default=0)
        if 1e5 <= largest < 1e6 and not self.log:
            return f"{tick / 1000:g}k" if tick else "0"
        if tick and not 1e-4 <= largest < 1e6 or (self.log and not 1e-3 <= tick < 1e4):
            return f"{tick:.3g}".replace("e-0", "e-").replace("e+0", "e")
        digits = 0 if self.log else next((d for d in range(9) if all(_is_round(t, d) for t in self.ticks)), 9)
        return f"{tick:.{digits}f}" if digits else f"{tick:g}"


def _is_round(value: float, digits: int) -> bool:
    return abs(value - round(value, digits)) < 1e-9 * max(abs(value), 1e-3)


def _nice(low: float, high: float, whole: bool, most: int = 5) -> list[float]:
    """Round numbers between the limits, in five steps at most."""
    raw = max((high - low) / most, 1 if whole else 0)
    base = 10 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if whole and base == 1 else (1, 2, 2.5, 5, 10)
    step = next(m * base for m in factors if m * base >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) + 0.0 if abs(n * step) > 1e-9 else n * step for n in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    step = -(-len(powers) // 6) or 1
    decades = [10.0**p for p in powers[::step]]
    if len(decades) > 1:
        return decades
    between = [
        m * 10.0**p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    return [tick for tick in between if low <= tick <= high]


def thinned(columns: Sequence[np.ndarray], most: int = COLUMNS) -> list[np.ndarray]:
    """Of x, y and others over the same points: of each of `most` parts the lowest and the highest y, and both ends."""
    count = len(columns[0])
    if count <= 2 * most:
        return list(columns)
    edges = np.linspace(0, count, most + 1).astype(int)
    kept = {0, count - 1}
    for start, end in zip(edges, edges[1:], strict=False):
        part = columns[1][start:end]
        kept |= {start + int(part.argmin()), start + int(part.argmax())}
    return [column[sorted(kept)] for column in columns]


def drawable(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Where all columns hold numbers that an axis can show."""
    return np.all([np.abs(np.nan_to_num(c, nan=np.inf)) < HUGE for c in columns], axis=0)


def short(value: float) -> float | int:
    """With six digits at most: a whole number as such."""
    value = float(value)
    if value == int(value) and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.6g}")


def picked(values: list, count: int) -> list:
    """Up to so many of the values, evenly, the first and the last among them."""
    if len(values) <= count:
        return values
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
