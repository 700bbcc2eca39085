"""A page of the images that a net is least sure of."""

import heapq
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from report import gallery
from report.html import Markup, join, paragraph, tag
from report.page import head
from runs.predictions import Prediction
from utils import files
from utils.text import counted

MOST, SHOWN = 100, 2  # images on the page; classes of each


class LeastSure:
    """Keeps those of the lowest probability of the likeliest class, as small pictures."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path, self.classes, self.total, self.numbers = path, classes, 0, count()
        self.kept: list[tuple[float, int, Markup]] = []  # a heap, the surest first
        files.check_writable(path, "--least-sure")

    def add(self, prediction: Prediction) -> None:
        self.total += 1
        if len(self.kept) == MOST and prediction.confidence >= -self.kept[0][0]:
            return
        name = gallery.short(prediction.source.name)
        told = [f"{self.classes[label]}, {gallery.percent(odds)}" for label, odds in prediction.top(SHOWN)]
        picture = gallery.captioned(gallery.thumbnail(prediction.pixels, name), [name, *told])
        entry = (-prediction.confidence, next(self.numbers), picture)
        (heapq.heappush if len(self.kept) < MOST else heapq.heapreplace)(self.kept, entry)

    def write(self) -> None:
        """Writes the page, the least sure first."""
        figures = [picture for *_, picture in sorted(self.kept, key=lambda entry: (-entry[0], entry[1]))]
        title = f"The least sure of {counted(self.total, 'image')}"
        made = paragraph(f"Made {time.strftime('%Y-%m-%d %H:%M')}.", "note")
        body = [tag("header", tag("h1", title)), tag("main", gallery.gallery(figures)), tag("footer", made)]
        page = tag("html", join([head(title), tag("body", join(body))]), lang="en")
        with files.atomic_write(self.path) as file:
            file.write(f"<!doctype html>\n{page}\n")
