"""How well each class is told from the others, in the best epoch."""

import math
from typing import Any

import numpy as np

from report import charts, words
from report.html import Markup, details, figure, join, paragraph, table, tag
from report.subject import Subject
from runs.history import History, is_number

TITLE = "Classes"
PAIRS = 15  # of classes that are taken for each other most often
WORST, MOST = 30, 1000  # classes that are shown at once, and when all are asked for
SIDE_BY_SIDE = 6  # runs


def build(subject: Subject) -> Markup:
    run = subject.best
    classes, matrix = classes_of(run), confusion_of(run)
    if matrix is None or run.best is None:
        return Markup()
    total = matrix.sum(axis=1)
    share = matrix / np.maximum(total, 1)[:, None]
    which = f"epoch {run.best['epoch']}" + (f" of {run.name}" if len(subject.histories) > 1 else "")
    rows = _per_class(run, classes, total)
    head = ["class", "images", "accuracy", "F1"]
    more = [details(f"All {len(classes)} classes", table(head, rows, MOST))] if len(classes) > WORST else []
    caption = f"Confusion matrix of {which}: rows are true classes, columns predicted ones; shades are parts of a row."
    heat = figure(charts.heat(matrix, classes, classes, shade=share, corner="true \\ predicted"), caption)
    tables = [join([tag("h3", "Each class, the worst first"), table(head, rows[:WORST]), *more])]
    if len(classes) > 2:
        tables.append(_confused(classes, matrix, total))
    parts = [heat, tag("div", join(tag("div", part) for part in tables), class_="pair")]
    if len(subject.histories) > 1:
        parts.append(_compared(subject, classes))
    return join(parts)


def classes_of(run: History) -> list[str]:
    found = run.start.get("classes")
    return [str(name) for name in found] if isinstance(found, list) else []


def confusion_of(run: History) -> np.ndarray | None:
    """(K, K) of the best epoch: images, row the true class; None where the record holds none that fits the classes."""
    classes, found = classes_of(run), (run.best or {}).get("val_confusion")
    try:
        matrix = np.array(found, dtype=float)
    except (TypeError, ValueError):
        return None
    fits = matrix.shape == (len(classes), len(classes)) and len(classes) > 0 and np.isfinite(matrix).all()
    return matrix if fits else None


def _values(run: History, name: str) -> list[Any]:
    """A metric for each class in the best epoch, None where there is none."""
    found, count = (run.best or {}).get(name), len(classes_of(run))
    return found if isinstance(found, list) and len(found) == count else [None] * count


def _per_class(run: History, classes: list[str], total: np.ndarray) -> list[list[Any]]:
    accuracy, f1 = _values(run, "val_class_accuracy"), _values(run, "val_class_f1")
    order = sorted(range(len(classes)), key=lambda k: accuracy[k] if is_number(accuracy[k]) else math.inf)
    return [
        [classes[k], int(total[k]), words.metric("accuracy", accuracy[k]), words.metric("f1", f1[k])] for k in order
    ]


def _confused(classes: list[str], matrix: np.ndarray, total: np.ndarray) -> Markup:
    """The pairs that are taken for each other most often."""
    off = matrix * (1 - np.eye(len(classes)))
    places = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    found = [divmod(int(place), len(classes)) for place in places]
    rows = [
        [classes[i], classes[j], int(off[i, j]), f"{off[i, j] / max(total[i], 1):.1%}"] for i, j in found if off[i, j]
    ]
    if not rows:
        return paragraph("No image was taken for one of another class.")
    return join([tag("h3", "Most often confused"), table(["true", "predicted", "images", "of the class"], rows)])


def _compared(subject: Subject, classes: list[str]) -> Markup:
    """The accuracy of each class in several runs."""
    runs = [group.runs[0] for group in subject.groups if classes_of(group.runs[0]) == classes][:SIDE_BY_SIDE]
    columns = [_values(run, "val_class_accuracy") for run in runs]
    if len(runs) < 2:
        return Markup()
    rows = [[name, *(words.metric("accuracy", c[k]) for c in columns)] for k, name in enumerate(classes)]
    return join([tag("h3", "Accuracy of each class, best epochs"), table(["class", *(r.name for r in runs)], rows)])
