"""How far probabilities can be trusted: the reliability diagram, and ROC curves."""

from dataclasses import dataclass

import numpy as np
import torch
from torchmetrics.functional import classification as tm

from engine import metrics

BINS = 15  # as in metrics.calibration_error


@dataclass(frozen=True)
class Reliability:
    """Of each bin of confidence that holds images, (B,): mean confidence, accuracy, count of images.

    Attributes:
        error: the expected calibration error, the mean distance of confidence and accuracy.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    error: float


def reliability(logits: torch.Tensor, labels: torch.Tensor) -> Reliability:
    """Accuracy over confidence in BINS equal bins (Guo et al. 2017, arXiv:1706.04599) of logits (N, K), labels (N,)."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    confidence = confidence.clamp(max=1 - metrics.EPSILON).float()  # rounded as in torchmetrics: it decides on bins
    bins = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1), right=True).numpy() - 1
    count = np.bincount(bins, minlength=BINS)
    kept = count > 0
    sums = [np.bincount(bins, weights=w, minlength=BINS) for w in (confidence.numpy(), (predicted == labels).numpy())]
    sure, right = (values[kept] / count[kept] for values in sums)
    error = float(np.abs(sure - right) @ count[kept] / len(labels))
    return Reliability(sure, right, count[kept], error)


@dataclass(frozen=True)
class Roc:
    """Of one class against the rest: rates in [0, 1] of false and of true positives, and the area under the curve."""

    label: int
    false_positives: np.ndarray
    true_positives: np.ndarray
    area: float


def roc(logits: torch.Tensor, labels: torch.Tensor, most: int) -> list[Roc]:
    """The curves of up to `most` classes, those of the smallest areas, these first; of two classes that of the second.

    Images are ranked as in metrics.roc_auc. Classes of all or none of the images have no curve.
    """
    scores, classes = metrics.ranks(logits), logits.shape[1]
    images = torch.bincount(labels, minlength=classes)
    found = []
    for label in range(1 if classes == 2 else 0, classes):
        if 0 < images[label] < len(labels):
            one = (labels == label).long()
            found.append((tm.binary_auroc(scores[:, label], one).item(), label))
    curves = []
    for area, label in sorted(found)[:most]:
        false, true, _ = tm.binary_roc(scores[:, label], (labels == label).long())
        curves.append(Roc(label, false.numpy(), true.numpy(), area))
    return curves
