"""What of two trainings must be the same, bit for bit."""

import json
from pathlib import Path

import torch

TIMES = ("time", "seconds", "rate")


def record(run: Path) -> list[dict]:
    """The steps, epochs and watched layers of a run's record, without times."""
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in e.items() if k not in TIMES} for e in events if e["kind"] in ("step", "epoch", "watch")]


def trained(checkpoint: dict) -> dict:
    """What must be equal in the checkpoints of two trainings: all but the options, which say how it was typed."""
    metadata = {key: value for key, value in checkpoint["metadata"].items() if key != "config"}
    return checkpoint | {"metadata": metadata}


def same(a: object, b: object) -> bool:
    """Whether two contents of checkpoints are equal, to the last bit of their tensors."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
