"""Figures of a classifier, from its logits. Training and `val` share this one place, so that their numbers agree."""

import torch
from torch.nn import functional as F
from torchmetrics.functional import classification as tm


def classification(logits: torch.Tensor, labels: torch.Tensor) -> dict:
    """Figures over a whole data set.

    Args:
        logits: (N, K) float32. labels: (N,) int64 in [0, K).
    Returns:
        loss: mean cross entropy in nats, which is also the log loss. accuracy, class_accuracy (K): in [0, 1].
        top5: how often the label is among the five most probable classes; only for K > 5.
        f1, class_f1 (K): harmonic mean of precision and recall, in [0, 1]; f1 is the mean of class_f1.
        confusion (K x K): images, row the true class, column the predicted one.
        roc_auc: area under the ROC curve (for K > 2 the mean of one class against the rest).
        calibration_error: expected calibration error over 15 bins (Guo et al. 2017, arXiv:1706.04599).
        score: what the best checkpoint is chosen by.
    """
    k = logits.shape[1]
    probs = logits.softmax(dim=1)
    confusion = tm.multiclass_confusion_matrix(logits, labels, num_classes=k)
    loss = F.cross_entropy(logits, labels).item()
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
    auc = tm.multiclass_auroc(probs, labels, num_classes=k) if k > 2 else tm.binary_auroc(probs[:, 1], labels)
    calibration = tm.multiclass_calibration_error(probs, labels, num_classes=k, n_bins=15)
    f1 = tm.multiclass_f1_score(logits, labels, num_classes=k, average=None)
    in_top5 = logits.topk(min(5, k)).indices.eq(labels[:, None]).any(dim=1)
    return {
        "loss": loss,
        "accuracy": accuracy,
        **({"top5": in_top5.float().mean().item()} if k > 5 else {}),
        "f1": f1.mean().item(),
        "roc_auc": auc.item(),
        "calibration_error": calibration.item(),
        "class_accuracy": (confusion.diag() / confusion.sum(dim=1).clamp(min=1)).tolist(),
        "class_f1": f1.tolist(),
        "confusion": confusion.tolist(),
        "score": accuracy,
    }


def better_than_chance(confusion: torch.Tensor) -> float:
    """The accuracy that a guess of the most frequent class has, and one standard deviation more; of a (K, K) matrix."""
    images = confusion.sum().item()
    share = confusion.sum(dim=1).max().item() / images
    return share + (share * (1 - share) / images) ** 0.5


def one_line(figures: dict) -> str:
    """Loss, accuracy and, for a few classes, the confusion matrix."""
    text = f"val loss {figures['loss']:.4f}  accuracy {figures['accuracy']:.2%}"
    return f"{text}  confusion {figures['confusion']}" if len(figures["confusion"]) <= 4 else text


def table(figures: dict, classes: list[str]) -> str:
    """All figures, with a line for each class and the confusion matrix where it fits the terminal."""
    lines = [
        f"loss (log loss)    {figures['loss']:.6f}",
        f"accuracy           {figures['accuracy']:.4%}",
        *([f"top-5 accuracy     {figures['top5']:.4%}"] if "top5" in figures else []),
        f"F1 (mean)          {figures['f1']:.6f}",
        f"ROC AUC            {figures['roc_auc']:.6f}",
        f"calibration error  {figures['calibration_error']:.6f}",
        "",
    ]
    confusion = figures["confusion"]
    width = max(len("class"), *(len(name) for name in classes))
    wide = len(classes) <= 12
    lines.append(
        f"{'class':<{width}}  images  accuracy      F1"
        + ("   predicted: " + " ".join(f"{c:>8.8}" for c in classes)) * wide
    )
    by_class = zip(classes, figures["class_accuracy"], figures["class_f1"], confusion, strict=True)
    for name, accuracy, f1, row in by_class:
        cells = ("              " + " ".join(f"{n:>8}" for n in row)) * wide
        lines.append(f"{name:<{width}}  {sum(row):>6}  {accuracy:>8.2%}  {f1:>6.4f}{cells}")
    return "\n".join(lines)
