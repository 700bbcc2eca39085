"""Run folders of known numbers, made without a training."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

from config import Config


def write_run(
    folder: Path,
    epochs: int = 5,
    steps: int = 50,
    classes: list[str] | None = None,
    start: dict | None = None,
    **options,
) -> Path:
    """A classifier's run: metrics.jsonl and log.txt. Its numbers depend on its options.

    Args:
        start: what to put into the entry "start", in the place of what is there.
    """
    folder.mkdir(parents=True)
    rng, names = Random(str(sorted(options.items()))), classes or ["cat", "dog"]
    config = Config(max_epoch=epochs, dataset="Demo", **options).model_dump()
    files = {"train_files": "ab" * 32, "val_files": "cd" * 32}
    first = {"kind": "start", "model": config["model"], "task": "Classify", "classes": names, "time": 1795657102.783}
    first |= {
        "images": {"train": 420, "val": 180, **files},
        "machine": {"device": "cpu", "torch": "2.6.0", "threads": 2},
    }
    events: list[dict[str, Any]] = [first | {"config": config} | (start or {})]
    for epoch in range(1, epochs + 1):
        for step in range((epoch - 1) * steps // epochs + 1, epoch * steps // epochs + 1):
            loss = 3 * math.exp(-3 * step / steps) + rng.random() / 3
            events.append({"kind": "step", "epoch": epoch, "step": step, "lr": 1e-3, "loss": loss})
        val = {"val_loss": 3 / epoch + rng.random() / 9, "val_accuracy": 1 - 0.8 / epoch - rng.random() / 99}
        if epoch == epochs:
            val |= by_class(len(names), rng)
        train = {"train_loss": 2.5 / epoch, "train_accuracy": 1 - 0.7 / epoch}
        events.append(
            {"kind": "epoch", "epoch": epoch, "step": step, "lr": 1e-3, **train, **val, "rate": 99.5, "seconds": 12.5}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "log.txt").write_text("stopped by nobody\n")
    return folder


def by_class(count: int, rng: Random) -> dict[str, Any]:
    """Metrics of each class; a few images of each are taken for the next class."""
    right, wrong = [rng.randint(20, 30) for _ in range(count)], [rng.randint(1, 9) for _ in range(count)]
    matrix = [[0] * count for _ in range(count)]
    for k in range(count):
        matrix[k][k], matrix[k][(k + 1) % count] = right[k], wrong[k]
    accuracy = [r / (r + w) for r, w in zip(right, wrong, strict=True)]
    return {"val_confusion": matrix, "val_class_accuracy": accuracy, "val_class_f1": [a**2 for a in accuracy]}


def events_of(run: Path, kind: str) -> list[dict]:
    return [event for event in map(json.loads, (run / "metrics.jsonl").open()) if event["kind"] == kind]
