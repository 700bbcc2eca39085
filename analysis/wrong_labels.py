"""Images whose label is probably wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

The net must not have learned from the images that are judged: those kept for validation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils import files
from utils.text import csv_line

if TYPE_CHECKING:
    from analysis.judged import Judged

HEAD = ("file", "label", "suggested", "probability of label", "probability of suggested", "rank")


@dataclass(frozen=True)
class Suspect:
    """An image by its number, and the class that it seems to belong to."""

    index: int
    suggested: int


def find(probabilities: np.ndarray, labels: np.ndarray) -> list[Suspect]:
    """The images off the diagonal of the confident joint, except those that the net predicts as they are labelled.

    An image counts as class k where its probability of k is at least the mean that images labelled k have of it (their
    self-confidence); of several such classes the most probable one. The first has the lowest normalized margin: the
    probability of its label, less the largest of the others. cleanlab's find_label_issues(filter_by=
    "confident_learning") finds the same images, and a few more: where several classes are reached, it takes the most
    probable of all.

    Args:
        probabilities: (N, K) float64. labels: (N,) integers in [0, K).
    """
    count, classes = probabilities.shape
    rows = np.arange(count)
    own = probabilities[rows, labels]
    images = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds = np.where(
        images > 0, sums / np.maximum(images, 1), np.inf
    )  # of a class without images nothing is known
    confident = probabilities >= thresholds - 1e-6  # rounding must not decide where all are equally sure
    counted = np.where(confident, probabilities, -1.0).argmax(axis=1)
    others = probabilities.copy()
    others[rows, labels] = -1.0
    margins = own - others.max(axis=1)
    suspects = confident.any(axis=1) & (counted != labels) & (probabilities.argmax(axis=1) != labels)
    order = sorted(np.flatnonzero(suspects).tolist(), key=lambda i: margins[i])
    return [Suspect(index, int(counted[index])) for index in order]


def write(path: str | Path, judged: "Judged", suspects: list[Suspect]) -> None:
    """Writes a CSV with the columns HEAD, the most suspicious first, whole or not at all."""
    with files.atomic_write(path) as file:
        file.write(csv_line(HEAD))
        for rank, suspect in enumerate(suspects, 1):
            path, label = judged.items[suspect.index]
            own, other = judged.probabilities[suspect.index, [label, suspect.suggested]].tolist()
            names = judged.classes[label], judged.classes[suspect.suggested]
            file.write(csv_line([path, *names, own, other, rank]))
