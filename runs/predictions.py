"""What a classifier says of single images, and the lines that are printed of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from data.sources import Source
from runs.record import to_json
from utils.text import csv_line


@dataclass(frozen=True)
class Prediction:
    """Of one image: what the net saw of it, (S, S, C) uint8, and the probability of each class, (K,) float64."""

    source: Source
    pixels: np.ndarray
    probabilities: np.ndarray

    @property
    def label(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        """The probability of the likeliest class."""
        return float(self.probabilities.max())

    def top(self, count: int) -> list[tuple[int, float]]:
        """(class, probability) of the likeliest ones, in their order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(label), float(self.probabilities[label])) for label in order]


class Rows:
    """A line for each image: its name, then the likeliest classes with their probabilities.

    CSV with a head, or with `as_json` an object a line: {"image": ..., "top": [{"class": ..., "probability": ...}]}.
    """

    def __init__(self, file: TextIO, classes: Sequence[str], top_k: int = 1, as_json: bool = False) -> None:
        self.file, self.classes, self.top_k, self.as_json = file, classes, min(top_k, len(classes)), as_json
        if not as_json:
            more = [name for k in range(2, self.top_k + 1) for name in (f"predicted_{k}", f"probability_{k}")]
            file.write(csv_line(["image", "predicted", "probability", *more]))

    def add(self, prediction: Prediction) -> None:
        name = prediction.source.name
        top = [(self.classes[label], odds) for label, odds in prediction.top(self.top_k)]
        if self.as_json:
            told = [{"class": label, "probability": odds} for label, odds in top]
            self.file.write(to_json({"image": name, "top": told}) + "\n")
        else:
            self.file.write(csv_line([name, *(cell for label, odds in top for cell in (label, f"{odds:.6f}"))]))
