"""Run folders with numbers of our choice, as a training would have left them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config import Config


def make_run(
    folder: Path, name: str, values: Sequence[float], steps: int = 0, monitor: str = "accuracy", **options: Any
) -> Path:
    """A run in `folder`: `values` is the monitored metric of each epoch, `steps` how many of an epoch it records."""
    run = folder / name
    run.mkdir(parents=True)
    config = Config(**{"model": "resnet18", "dataset": "Demo", "max_epoch": len(values), **options}).model_dump()
    start = {"kind": "start", "model": config["model"], "task": "Gan" if monitor == "distance" else "Classify"}
    start |= {"images": {"train": 420, "val": 180}, "config": config, "time": 1.7e9 + len(list(folder.iterdir()))}
    events = [start]
    for epoch, value in enumerate(values, 1):
        for step in range(1, steps + 1):
            number = (epoch - 1) * steps + step
            events.append({"kind": "step", "epoch": epoch, "step": number, "lr": 1e-3, "loss": 0.693147180559945309})
        losses = {"train_loss": 1 / epoch, "val_loss": 1.5 / epoch}
        if monitor == "distance":
            losses = {"train_discriminator_loss": 1 / epoch, "train_generator_loss": 2 / epoch}
        more = {"val_f1": value, "val_roc_auc": value, "val_class_accuracy": [value, value]}
        more |= {"val_confusion": [[80, 10], [20, 70]], "rate": 200.0, "seconds": 2.5}
        events.append({"kind": "epoch", "epoch": epoch, "step": epoch * steps, "lr": 1e-3, **losses})
        events[-1] |= {f"val_{monitor}": value, **more}
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (run / "log.txt").write_text("best: ...\n")
    return run


def make_seeds(folder: Path, name: str, best: Sequence[float], first: int = 0, **options: Any) -> None:
    """Runs of the seeds `first`, `first` + 1, ... that reach these values in their second epoch of two."""
    for seed, value in enumerate(best, first):
        make_run(folder, f"{name}_{seed}", [value / 2, value], seed=seed, **options)
