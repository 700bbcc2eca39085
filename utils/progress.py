"""How far long work is: a tqdm bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

EVERY = 30  # seconds between two plain lines


class Progress:
    """Counts images up to `total`; shows figures, images a second and the time left."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.count, self.figures = title, total, done, done, ""
        self.start = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=total, desc=title, initial=done, unit=" img", leave=False, dynamic_ncols=True, smoothing=0.1
            )

    def update(self, images: int) -> None:
        self.count += images
        if self.bar is not None:
            with suppress(OSError):  # the terminal is gone
                self.bar.update(images)
        elif time.monotonic() - self.last_line > EVERY:
            self.last_line = time.monotonic()
            left = (self.total - self.count) / max(self.rate, 1e-9)
            rate = f"{self.rate:.1f} img/s  {left:.0f} s left"
            with suppress(OSError):  # nobody reads on
                print(f"{self.title} {self.count}/{self.total}  {self.figures}  {rate}", flush=True)

    def show(self, **figures: float) -> None:
        """Sets the figures beside the bar."""
        self.figures = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.figures, refresh=False)

    @property
    def rate(self) -> float:
        """Images a second since the start."""
        return (self.count - self.done) / max(time.monotonic() - self.start, 1e-9)

    def close(self) -> None:
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()


T, R = TypeVar("T"), TypeVar("R")
AT_ONCE = 256  # items given to the threads before the next ones are


def with_progress(batches: Iterable[T], title: str, total: int) -> Iterator[T]:
    """The batches, with a progress bar over `total` images."""
    bar = Progress(title, total)
    for batch in batches:
        yield batch
        bar.update(len(batch))
    bar.close()


def in_threads(work: Callable[[T], R], items: Sequence[T], title: str, threads: int) -> Iterator[list[R]]:
    """`work` of each item, in order, in lists of up to AT_ONCE, with a bar. For what runs outside of Python's lock."""

    def parts() -> Iterator[list[R]]:
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for start in range(0, len(items), AT_ONCE):
                yield list(pool.map(work, items[start : start + AT_ONCE]))

    return with_progress(parts(), title, len(items))
