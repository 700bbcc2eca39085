"""What the terminal says of a classifier."""

import math
import shlex
from pathlib import Path

import torch

from engine.messages import Messages, Metrics
from engine.metrics import better_than_chance
from utils.text import padded, width_of

WIDE = 12  # classes of which the table shows the confusion matrix
COLUMN, MATRIX = 8, 120  # columns of a terminal: for a predicted class at least, for all of them at most


class ClassifyMessages(Messages):
    def epoch(self, means: Metrics, metrics: Metrics) -> list[str]:
        """Losses of training and validation, accuracy, the monitored metric, of two classes the confusion matrix."""
        parts = [f"loss {_short(means['loss'])}", f"val {_short(metrics['loss'])}", f"acc {metrics['accuracy']:.2%}"]
        if self.opt.monitor not in (None, "loss", "accuracy"):
            parts.append(self.format_score(self.opt.monitor, metrics[self.opt.monitor]))
        if len(self.task.classes) == 2:
            (a, b), (c, d) = metrics["confusion"]
            parts.append(f"[{a} {b}; {c} {d}]")
        return parts

    def table(self, metrics: Metrics) -> str:
        """All metrics, with a line for each class and the confusion matrix where it fits the terminal."""
        titled = {name: m for name, m in self.task.metrics.items() if m.title and name in metrics}
        width = max(17, *(len(m.title) for m in titled.values()))
        lines = [f"{m.title:<{width}}  {metrics[name]:{m.style}}" for name, m in titled.items()]
        return "\n".join([*lines, "", *self._by_class(metrics)])

    def _by_class(self, metrics: Metrics) -> list[str]:
        """A line for each class; beside it, of a few classes, how many of its images were predicted as which."""
        classes, confusion = self.task.classes, metrics["confusion"]
        wide, column = len(classes) <= WIDE, max(COLUMN, *map(width_of, classes))
        short = len(classes) * (column + 1) <= MATRIX
        heads = classes if short else [f"#{k}" for k in range(len(classes))]  # names that were cut might look alike
        names = classes if short or not wide else [f"#{k} {name}" for k, name in enumerate(classes)]
        column = column if short else COLUMN
        width = max(width_of("class"), *map(width_of, names))
        head = f"{padded('class', width)}  images  accuracy      F1"
        lines = [head + ("   predicted: " + " ".join(_right(name, column) for name in heads)) * wide]
        for name, accuracy, f1, row in zip(
            names, metrics["class_accuracy"], metrics["class_f1"], confusion, strict=True
        ):
            cells = ("              " + " ".join(f"{n:>{column}}" for n in row)) * wide
            lines.append(f"{padded(name, width)}  {sum(row):>6}  {accuracy:>8.2%}  {f1:>6.4f}{cells}")
        return lines

    def format_score(self, name: str, value: float) -> str:
        return f"accuracy {value:.2%}" if name == "accuracy" else super().format_score(name, value)

    def next_commands(self, folder: str) -> list[str]:
        images = shlex.quote(self.opt.test_data_root) if Path(self.opt.test_data_root).exists() else "DIR"
        return [*super().next_commands(folder), f"python main.py test --load-path={folder} --test-data-root={images}"]

    def diagnose(self, means: Metrics, metrics: Metrics, progress: float) -> str | None:
        classes, confusion = self.task.classes, torch.tensor(metrics["confusion"])
        chance = math.log(len(classes))
        predicted = [name for name, count in zip(classes, confusion.sum(dim=0), strict=True) if count]
        if self.task.warming_up(progress):
            return None
        if len(predicted) == 1:
            sign = f"every validation image ({int(confusion.sum())}) is taken for {predicted[0]}"
        elif abs(means["loss"] / chance - 1) < 0.02 and metrics["accuracy"] < better_than_chance(confusion):
            sign = f"train loss {means['loss']:.4f}, and guessing among {len(classes)} classes gives {chance:.4f}"
        else:
            return None
        return (
            f"the net does not learn yet: {sign}. The usual causes: a learning rate that is too high or too low "
            f"(now {self.task.lr():.3g}: try a tenth and ten times that), labels that do not belong to the images "
            "(`python main.py check`), or simply too few epochs so far"
        )


def _short(value: float) -> str:
    """A loss in six characters or a few more: four digits after the point where it is small."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _right(text: str, width: int) -> str:
    return " " * (width - width_of(text)) + text
