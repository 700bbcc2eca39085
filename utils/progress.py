"""Progress of long work: a tqdm bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TextIO, TypeVar

from tqdm import tqdm

from utils import world

EVERY = 30  # seconds between two lines
COLOURS = {"green": 32, "yellow": 33}


def coloured(text: str, colour: str) -> str:
    """The text in a colour, where it goes to a terminal that shows them; plain where NO_COLOR is set (no-color.org)."""
    plain = not colour or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


class Progress:
    """Counts images up to `total`; shows metrics, images per second and the time left.

    Args:
        total: None where it is not known.
        file: where lines go, if there is no bar; None: standard output.
    """

    def __init__(self, title: str, total: int | None, done: int = 0, file: TextIO | None = None) -> None:
        self.title, self.total, self.done, self.count, self.metrics = title, total, done, done, ""
        self.file = file
        self.start = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty() and world.is_first():
            self.bar = tqdm(
                total=total,
                desc=title,
                initial=done,
                unit=" img",
                leave=False,
                dynamic_ncols=True,
                smoothing=0.1,
            )

    def update(self, images: int) -> None:
        self.count += images
        if self.bar is not None:
            with suppress(OSError):  # the terminal is gone
                self.bar.update(images)
        elif time.monotonic() - self.last_line > EVERY:
            self.last_line = time.monotonic()
            told = f"{self.title} {self.count}" + (f"/{self.total}" if self.total is not None else "")
            told += f"  {self.metrics}  {self.rate:.1f} img/s"
            if self.total is not None:
                told += f"  {(self.total - self.count) / max(self.rate, 1e-9):.0f} s left"
            with suppress(OSError):  # the output is closed
                print(told, file=self.file, flush=True)

    def show(self, **metrics: float) -> None:
        """Sets the metrics that are shown next to the bar."""
        self.metrics = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.metrics, refresh=False)

    @property
    def rate(self) -> float:
        """Images per second since the start."""
        return (self.count - self.done) / max(time.monotonic() - self.start, 1e-9)

    def close(self) -> None:
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()


T = TypeVar("T", bound=Sized)
R = TypeVar("R")
Item = TypeVar("Item")
AT_ONCE = 256  # items per list


def with_progress(batches: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yields the batches, with a progress bar over `total` images."""
    bar = Progress(title, total)
    for batch in batches:
        yield batch
        bar.update(len(batch))
    bar.close()


def in_threads(work: Callable[[Item], R], items: Sequence[Item], title: str, threads: int) -> Iterator[list[R]]:
    """Yields `work(item)` of all items, in order, in lists of up to AT_ONCE, with a progress bar.

    For work that releases the GIL, such as decoding images.
    """

    def parts() -> Iterator[list[R]]:
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for start in range(0, len(items), AT_ONCE):
                yield list(pool.map(work, items[start : start + AT_ONCE]))

    return with_progress(parts(), title, len(items))
