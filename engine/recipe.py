"""Parts of a training recipe, made from the options."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import v2

from config import Config
from data.image_data import Items
from data.loaders import Batch
from utils import world


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


def mix_shard(mix: Callable, batch: Batch, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `mix` of `make_mixup` does to the whole batch, for the images of a shard of it.

    Each image is mixed with the one before it, which another process may have; the numbers drawn are the same in all.
    """
    shard, labels = batch.shard, batch.labels
    assert shard is not None
    ends = [piece.rows.stop - 1 for piece in shard.pieces]
    places = torch.tensor(
        [shard.places[end] if piece.counts else -1 for end, piece in zip(ends, shard.pieces, strict=True)]
    )
    ends_of_all = [world.from_each(x).flatten(0, 1) for x in (images[ends], labels[ends], places.to(images.device))]
    found = {place: row for row, place in enumerate(ends_of_all[2].tolist())}
    rows, targets = [], []
    for piece in shard.pieces:
        row = found.get((shard.places[piece.rows.start] - 1) % shard.total, 0)  # none: its piece counts 0
        rows += [ends_of_all[0][row][None], images[piece.rows]]
        targets += [ends_of_all[1][row][None], labels[piece.rows]]
    mixed, mixed_targets = mix(torch.cat(rows), torch.cat(targets))
    own = torch.ones(len(mixed), dtype=torch.bool)
    own[[piece.rows.start + number for number, piece in enumerate(shard.pieces)]] = False
    return mixed[own], mixed_targets[own]


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
