"""Numbers, times and options in words, the same in all sections."""

import math
from typing import Any

from runs.history import is_number
from utils.text import in_words, without_home

NAMES = {"roc_auc": "ROC AUC", "f1": "F1", "top5": "top-5 accuracy", "distance": "Fréchet distance"}
NAMES |= {"real": "score of real images", "fake": "score of generated images"}  # by a GAN's discriminator
PARTS = ("accuracy", "top5")  # metrics that are parts of a whole: in percent


def metric(name: str, value: Any) -> str:
    """A metric's value; "" where there is none."""
    if not is_number(value):
        return ""
    return f"{value:.2%}" if name.endswith(PARTS) else f"{value:.4g}"


def named(name: str) -> str:
    """A metric's name."""
    return NAMES.get(name, name.replace("_", " "))


def duration(seconds: float) -> str:
    return in_words(seconds) if math.isfinite(seconds) else ""


def option(value: Any) -> str:
    """An option's value as in the command line."""
    if isinstance(value, dict):
        return " ".join(f"{name}={option(v)}" for name, v in value.items()) or "none"
    if isinstance(value, list):
        return ",".join(map(option, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return without_home(f"{value:.12g}" if isinstance(value, float) else str(value))
