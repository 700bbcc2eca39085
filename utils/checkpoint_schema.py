"""What a checkpoint must hold, key by key: one that is damaged, or made by hand, is refused in one line."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UsageError

REMEDY = "copy it again, or take another one"
DEPTH = 20  # of nested plain values


@dataclass(frozen=True)
class Kind:
    """What a value must be, in words, and whether it is."""

    words: str
    fits: Callable[[Any], bool]

    def or_none(self) -> "Kind":
        return Kind(f"{self.words} or None", lambda value: value is None or self.fits(value))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_list(values: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(values, (list, tuple)) and all(map(fits, values))


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def has_tensor(value: Any, depth: int = DEPTH) -> bool:
    """Whether a nested value holds a tensor, or has no end."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return depth == 0 or hasattr(value, "storage_offset") or any(has_tensor(v, depth - 1) for v in inner)


TEXT, TEXTS = Kind("a str", is_text), Kind("a list of str", lambda v: is_list(v, is_text))
COUNT = Kind("an int from 0 on", lambda v: type(v) is int and v >= 0)
COUNTS = Kind("a list of int", lambda v: is_list(v, lambda n: type(n) is int))
SIDE = Kind("an int from 1 to 4096", lambda v: type(v) is int and 0 < v <= 4096)
NUMBER = Kind("a number", is_number)
SECONDS = Kind("a number from 0 on", lambda v: is_number(v) and v >= 0)
PART = Kind("a number above 0, up to 1", lambda v: is_number(v) and 0 < v <= 1)
FLAG = Kind("a bool", lambda v: isinstance(v, bool))
CLASSES = Kind("a list of at least one str", lambda v: is_list(v, is_text) and len(v) > 0)
MEANS = Kind(
    "a list of 1 or 3 numbers", lambda v: is_list(v, lambda n: is_number(n) and math.isfinite(n)) and len(v) in (1, 3)
)
SPREADS = Kind("a list of 1 or 3 numbers above 0", lambda v: MEANS.fits(v) and min(v) > 0)
DICT = Kind("a dict with str as keys", lambda v: isinstance(v, dict) and all(map(is_text, v)))
PLAIN = Kind("a dict of plain values", lambda v: DICT.fits(v) and not has_tensor(v))
NUMBERS = Kind("a dict of numbers", lambda v: DICT.fits(v) and all(map(is_number, v.values())))
GROUPS = Kind(
    "a list of dicts that have a number lr",
    lambda v: is_list(v, lambda g: DICT.fits(g) and is_number(g.get("lr"))) and len(v) > 0,
)

# {place: what stands there}; one that ends in "?" may be absent, and then all below it too
WEIGHTS = {  # of every file
    "metadata": DICT,
    "metadata.model?": TEXT,
    "metadata.num_classes?": COUNT.or_none(),
    "metadata.classes?": TEXTS,
    "net": DICT,
}
TRAINING = WEIGHTS | {  # of a run's
    "metadata.model": TEXT,
    "metadata.model_args?": PLAIN,
    "metadata.task?": TEXT,
    "metadata.num_classes": COUNT,
    "metadata.classes": CLASSES,
    "metadata.images": PLAIN,
    "metadata.images.train": COUNT,
    "metadata.images.val": COUNT,
    "metadata.preprocess": PLAIN,
    "metadata.preprocess.image_size": SIDE,
    "metadata.preprocess.min_crop?": PART,
    "metadata.preprocess.mean": MEANS,
    "metadata.preprocess.std": SPREADS,
    "metadata.preprocess.interpolation?": TEXT,
    "metadata.preprocess.crop_pct?": PART,
    "metadata.machine": PLAIN,
    "metadata.config": PLAIN,  # its values are checked as those of a preset are, but for names of code
    "metadata.config.dataset?": TEXT.or_none(),
    "metadata.config.optimizer?": TEXT,
    "metadata.config.scheduler?": TEXT,
    "metadata.config.metrics?": TEXTS,
    "metadata.config.sinks?": TEXTS,
    "task": DICT,
    "trainer": DICT,
    "trainer.epoch": COUNT,
    "trainer.step": COUNT,
    "trainer.progress?": DICT,
    "trainer.progress.seen?": COUNT,
    "trainer.progress.lr?": NUMBER,
    "trainer.progress.sums?": NUMBERS,
    "trainer.progress.counted?": COUNT,
    "trainer.progress.seconds?": SECONDS,
    "trainer.progress.bad?": TEXTS,
    "trainer.progress.skipped?": COUNTS,
    "trainer.monitor?": TEXT,
    "trainer.best_value?": NUMBER.or_none(),
    "trainer.best_loss?": NUMBER,
    "trainer.best_epoch": COUNT,
    "trainer.metrics?": DICT,
    "trainer.warned?": FLAG,
}
# What the formats before are converted by; the result is checked as the others are.
FLAT_WEIGHTS = {"net": DICT}
FORMAT_2 = {
    "net": DICT,
    "num_classes": COUNT.or_none(),
    "classes": CLASSES,
    "config": PLAIN,
    "epoch": COUNT,
    "best_epoch": COUNT,
    "best_score?": NUMBER,
    "metrics": DICT,
    "metrics.loss?": NUMBER,
}
FORMAT_1 = FORMAT_2 | {
    "config.lr": NUMBER,
    "config.scheduler": TEXT,
    "images": PLAIN,
    "images.train": COUNT,
    "images.val": COUNT,
    "threads": COUNT,
    "scheduler": DICT,
    "scheduler.previous_loss": NUMBER,
    "optimizer": DICT,
    "optimizer.param_groups": GROUPS,
}


def check_flat(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises UsageError where a checkpoint of format 1 or 2 lacks what its conversion needs."""
    trained = "config" in checkpoint or "epoch" in checkpoint
    check(checkpoint, ({1: FORMAT_1, 2: FORMAT_2}[checkpoint["format"]] if trained else FLAT_WEIGHTS), path)


def check_nested(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises UsageError where a checkpoint of format 3 lacks something, or holds what cannot be used."""
    check(checkpoint, WEIGHTS, path)
    metadata = checkpoint["metadata"]
    if "config" not in metadata and "trainer" not in checkpoint:
        return
    check(checkpoint, TRAINING, path)
    if metadata["num_classes"] != (count := len(metadata["classes"])):
        raise damaged(path, "metadata.num_classes", metadata["num_classes"], f"{count}, as many as metadata.classes")
    if len(metadata["preprocess"]["mean"]) != (count := len(metadata["preprocess"]["std"])):
        raise damaged(path, "metadata.preprocess.mean", metadata["preprocess"]["mean"], f"{count}, as many as in std")
    progress = checkpoint["trainer"].get("progress", {})
    if progress.get("sums") and not progress.get("counted"):
        raise damaged(path, "trainer.progress.counted", progress.get("counted"), "as many images as its sums are of")


def check(content: Mapping[str, Any], places: Mapping[str, Kind], path: str | Path) -> None:
    """Raises UsageError for the first of `places` that is missing, or holds something else."""
    for place, kind in places.items():
        *above, key = place.removesuffix("?").split(".")
        owner: Any = content
        for name in above:
            owner = owner.get(name, {})
        if key in owner:
            if not kind.fits(owner[key]):
                raise damaged(path, place.removesuffix("?"), owner[key], kind.words)
        elif not place.endswith("?"):
            raise UsageError(f"{path} is damaged: it lacks {place}; {REMEDY}")


def damaged(path: str | Path, place: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"{path} is damaged: {place} is {described(value)}, expected {expected}; {REMEDY}")


def described(value: Any) -> str:
    """A value in a few words of one line."""
    if hasattr(value, "shape"):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)) and value and not has_tensor(value):
        return reprlib.repr(value)
    kind = type(value).__name__
    return f"{'an empty' if isinstance(value, (list, tuple, dict, str)) and not value else 'a'} {kind}"
