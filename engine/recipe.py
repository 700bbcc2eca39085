"""Parts of a training recipe, made from the options."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import v2

from config import Config
from data.image_data import Items


def resized_side(side: int) -> int:
    """The side of the images in the first part of a training with progressive resizing (Howard 2018, fast.ai)."""
    return side * 3 // 4


def class_weights(items: Items) -> torch.Tensor:
    """(K,): by how much an image of each class counts more, or is drawn more often, so that all classes are equal."""
    counts = torch.bincount(torch.tensor([label for _, label in items])).clamp(min=1)
    return counts.sum() / (len(counts) * counts)


def make_mixup(opt: Config, num_classes: int) -> Callable:
    """(images, labels) -> the same, mixed as the options say: mixup (Zhang et al. 2017, arXiv:1710.09412), cutmix
    (Yun et al. 2019, arXiv:1905.04899), or one of both in each step.
    """
    kinds = [(v2.MixUp, opt.mixup), (v2.CutMix, opt.cutmix)]
    mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(mixes) if mixes else lambda images, labels: (images, labels)


def make_ema(net: nn.Module, opt: Config) -> AveragedModel | None:
    """The exponential moving average of a net's weights and buffers, where the options ask for one."""
    return AveragedModel(net, avg_fn=ema_update(opt.ema), use_buffers=True) if opt.ema else None


def ema_update(decay: float) -> Callable:
    """For AveragedModel: an exponential moving average, which forgets its first values faster."""

    def update(average: torch.Tensor, now: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        if not average.is_floating_point():  # BatchNorm's count of batches
            return now
        return average.lerp(now, 1 - min(decay, (1 + float(count)) / (10 + float(count))))

    return update
