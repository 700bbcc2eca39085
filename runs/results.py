"""The CSV of predictions, and the JSON of metrics."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from data.batch import UNREADABLE, Batch
from runs.record import to_json
from utils import files
from utils.text import csv_line


def write_csv(
    path: str | Path,
    ids: list[str],
    predictions: Iterable[tuple[Batch, torch.Tensor]],
    classes: list[str],
    with_logits: bool = False,
    fill: bool = False,
) -> list[tuple]:
    """Writes one row for each image as the predictions come, whole or not at all.

    Returns:
        For each image (id, probability of the second class); with more than two classes (id, predicted class, its
        probability).

    Args:
        ids: id of each image, in the order of the predictions.
        predictions: batches with their logits (N, K).
        with_logits: add a column for each class with its logit.
        fill: an image that could not be read gets a row of equal probabilities; else it has none.
    """
    remaining, rows = iter(ids), []
    with files.atomic_write(path) as file:
        head = ["id", "label"] if len(classes) == 2 else ["id", "predicted", *classes]
        file.write(csv_line([*head, *(f"logit {name}" for name in classes if with_logits)]))
        for batch, logits in predictions:
            unread = (batch.labels == UNREADABLE).cpu()
            kept = logits.masked_fill(unread[:, None], 0)
            parts = unread.tolist(), kept.double().softmax(dim=1).tolist(), kept.tolist()
            for bad, probs, values in zip(*parts, strict=True):
                name, top = next(remaining), probs.index(max(probs))
                if bad and not fill:
                    continue
                file.write(csv_line([name, *_cells(probs, classes), *(values if with_logits else [])]))
                rows.append((name, probs[1]) if len(classes) == 2 else (name, classes[top], probs[top]))
    return rows


def write_metrics(checkpoint: Path, data: dict[str, str], own: bool, values: dict[str, Any]) -> Path | None:
    """Writes what was measured of RUN_FOLDER/best.pth beside it; nothing for a file elsewhere or read-only.

    Returns:
        The file: val_best.json for the validation part of its training, val_best_<split>_<fingerprint>.json for others.

    Args:
        data: dataset, root, split and fingerprint of the images; own: whether they are those of its training.
    """
    if not (checkpoint.parent / "config.yaml").is_file() or not os.access(checkpoint.parent, os.W_OK):
        return None
    which = "" if own else f"_{data['split']}_{data['fingerprint'][:8]}"
    path = checkpoint.with_name(f"val_{checkpoint.stem}{which}.json")
    with files.atomic_write(path) as file:
        file.write(to_json({"data": data, **values}, indent=1))
    return path


def meaning(classes: list[str]) -> str:
    return f"label = probability of {classes[1]}" if len(classes) == 2 else "one column of probabilities for each class"


def _cells(probs: list[float], classes: list[str]) -> list[str]:
    if len(classes) == 2:
        return [repr(probs[1])]  # all its digits: rounded, confident ones lose their order
    return [classes[probs.index(max(probs))], *map(repr, probs)]
