"""The CSV of predictions, and the JSON of metrics."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from data.loaders import Batch
from runs.record import to_json
from utils import files


def write_csv(
    path: str | Path, ids: list[str], predictions: Iterable[tuple[Batch, torch.Tensor]], classes: list[str]
) -> list[tuple]:
    """Writes one row for each image as the predictions come, whole or not at all.

    Returns:
        For each image (id, probability of the second class); with more than two classes (id, predicted class, its
        probability).

    Args:
        ids: id of each image, in the order of the predictions.
        predictions: batches with their logits (N, K).
    """
    remaining, rows = iter(ids), []
    with files.atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label"] if len(classes) == 2 else ["id", "predicted", *classes])
        for _, logits in predictions:
            for probs in logits.double().softmax(dim=1).tolist():
                name, top = next(remaining), probs.index(max(probs))
                writer.writerow([name, *_cells(probs, classes)])
                rows.append((name, probs[1]) if len(classes) == 2 else (name, classes[top], probs[top]))
    return rows


def write_json(checkpoint: Path, metrics: dict) -> None:
    """Writes what was measured of RUN_FOLDER/best.pth as val_best.json beside it; nothing for a file elsewhere."""
    if (checkpoint.parent / "config.yaml").is_file() and os.access(checkpoint.parent, os.W_OK):
        with files.atomic_write(checkpoint.with_name(f"val_{checkpoint.stem}.json")) as file:
            file.write(to_json(metrics, indent=1))


def meaning(classes: list[str]) -> str:
    return f"label = probability of {classes[1]}" if len(classes) == 2 else "one column of probabilities for each class"


def _cells(probs: list[float], classes: list[str]) -> list[str]:
    if len(classes) == 2:
        return [f"{probs[1]:.8f}"]
    return [classes[probs.index(max(probs))], *(f"{p:.8f}" for p in probs)]
