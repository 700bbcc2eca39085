"""Metrics of a classifier. A metric is one function here, or one of the user's own (`--metrics=file.py:function`).

Each is computed on the whole validation part, shown by `val`, recorded, and may be what `--monitor` names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torchmetrics.functional import classification as tm

from utils import registry
from utils.errors import UsageError

EPSILON = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Metric:
    """A function of logits (N, K) float32 and labels (N,) int64 in [0, K), and how to read what it returns.

    Attributes:
        function: returns a number, a list, or None where it has no meaning.
        title: of its line in a table; None: not listed there.
        mode: "max" where more is better, "min" where less is; None: no single number to choose a best epoch by.
        style: format of the number.
    """

    function: Callable[[torch.Tensor, torch.Tensor], Any]
    title: str | None
    mode: str | None
    style: str = ".6f"


METRICS: dict[str, Metric] = {}


def metric(title: str | None = None, mode: str | None = None, style: str = ".6f") -> Callable:
    """Adds the function below it, under its own name."""

    def add(function: Callable) -> Callable:
        METRICS[function.__name__] = Metric(function, title, mode, style)
        return function

    return add


@metric("loss (log loss)", "min")
def loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean cross entropy in nats."""
    return F.cross_entropy(logits, labels).item()


@metric("accuracy", "max", ".4%")
def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()


@metric("top-5 accuracy", "max", ".4%")
def top5(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
    """How often the label is among the five most probable classes; only for K > 5."""
    if logits.shape[1] <= 5:
        return None
    return logits.topk(5).indices.eq(labels[:, None]).any(dim=1).float().mean().item()


@metric("F1 (mean)", "max")
def f1(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean of the classes' F1."""
    return _f1(logits, labels).mean().item()


@metric("ROC AUC", "max")
def roc_auc(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Area under the ROC curve; for K > 2 the mean of one class against the rest.

    Images are ranked by log-odds: among probabilities near 1 rounding loses the order.
    """
    k, scores = logits.shape[1], ranks(logits)
    if k == 2:
        return tm.binary_auroc(scores[:, 1], labels).item()
    return tm.multiclass_auroc(scores, labels, num_classes=k).item()


@metric("calibration error", "min")
def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Expected calibration error over 15 bins (Guo et al. 2017, arXiv:1706.04599)."""
    k, probs = logits.shape[1], logits.double().softmax(dim=1)
    probs = probs.clamp(max=1 - EPSILON)  # a confidence of exactly 1 would get a bin of its own
    return tm.multiclass_calibration_error(probs, labels, num_classes=k, n_bins=15).item()


@metric()
def class_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """(K): the part of each class's images that is predicted as such."""
    matrix = _confusion(logits, labels)
    return (matrix.diag() / matrix.sum(dim=1).clamp(min=1)).tolist()


@metric()
def class_f1(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """(K): harmonic mean of precision and recall."""
    return _f1(logits, labels).tolist()


@metric()
def confusion(logits: torch.Tensor, labels: torch.Tensor) -> list[list[int]]:
    """(K, K): images, row the true class, column the predicted one."""
    return _confusion(logits, labels).tolist()


def chosen(names: list[str]) -> dict[str, Metric]:
    """The metrics of this file, and the external ones of `names`, by the names of their functions.

    A function of the user's may say by its attributes `mode` ("max" or "min") and `title` how it is to be read.

    Raises:
        UsageError: no such function, or one of a name that is taken.
    """
    found = dict(METRICS)
    for name in names:
        function = registry.load_callable(name, "metric")
        own = getattr(function, "__name__", name.rpartition(":")[2])
        if own in found:
            raise UsageError(f"--metrics={name}: there is a metric {own} already; give the function another name")
        mode = getattr(function, "mode", "max")
        if mode not in ("max", "min"):
            raise UsageError(f"--metrics={name}: its mode is {mode!r}; give it 'max' (more is better) or 'min'")
        found[own] = Metric(function, getattr(function, "title", own), mode)
    return found


def compute(logits: torch.Tensor, labels: torch.Tensor, metrics: dict[str, Metric] | None = None) -> dict[str, Any]:
    """{name: value} of all metrics on logits (N, K) float32 and labels (N,) int64."""
    values = {name: m.function(logits, labels) for name, m in (metrics or METRICS).items()}
    return {name: value for name, value in values.items() if value is not None}


def ranks(logits: torch.Tensor) -> torch.Tensor:
    """(N, K) float64 in [0, 1]: numbers that rank the images by their log-odds of each class."""
    return _spread(_log_odds(logits.double()))


def _confusion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return tm.multiclass_confusion_matrix(logits, labels, num_classes=logits.shape[1])


def _f1(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return tm.multiclass_f1_score(logits, labels, num_classes=logits.shape[1], average=None)


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    """(N, K): log p - log(1 - p) of each class's probability, without cancellation."""
    top = logits.argmax(dim=1, keepdim=True)
    shifted = logits - logits.gather(1, top)
    powers = shifted.exp()
    others = (powers.sum(dim=1, keepdim=True) - powers).log()  # of the others; the largest power is 1, so precise
    of_top = shifted.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    return shifted - others.scatter(1, top, of_top)


def _spread(scores: torch.Tensor) -> torch.Tensor:
    """(N, K): each column moved and scaled to [0, 1]; what lies outside torchmetrics would squash."""
    low, high = scores.amin(dim=0), scores.amax(dim=0)
    return (scores - low) / (high - low).clamp(min=torch.finfo(scores.dtype).tiny)


def better_than_chance(confusion: torch.Tensor) -> float:
    """The accuracy that a guess of the most frequent class has, and one standard deviation more; of a (K, K) matrix."""
    images = confusion.sum().item()
    share = confusion.sum(dim=1).max().item() / images
    return share + (share * (1 - share) / images) ** 0.5
