"""`check --overfit`: can the net learn one batch by heart? A net that cannot will learn nothing from more images.

The same images, in the same mode, serve for training and for judging: BatchNorm normalizes by the statistics of the
batch in both, so its moving averages, which after a few steps are still far off, play no part. All that makes it hard
to learn by heart is off: augmentation, dropout, mixup, label smoothing, weight decay, a schedule.
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from analysis import causes, labels
from analysis.check import row
from config import Config
from data.image_data import ImageData, Items
from data.loaders import Batch
from engine.device import oom_as_failure
from engine.setup import build_training, train_loader
from engine.tasks.base import NonFiniteError, Task
from engine.watch import Look, first_tensor
from utils.errors import RunError
from utils.progress import Progress
from utils.text import counted

STEPS, SECONDS, IMAGES = 300, 60, 16  # steps of an attempt, seconds of all together
FIRST = 0.4  # part of the seconds that the first attempt may take
LEARNT = 0.1  # of the loss of guessing, log K, with all images right
OFF = ("shift", "rotate", "cutout", "noise", "mixup", "cutmix", "label_smoothing", "weight_decay", "ema", "warmup")
PLAIN = dict.fromkeys((*OFF, "progressive_resizing", "num_workers"), 0) | {
    "min_crop": 1.0,
    "flip": False,
    "accumulate": 1,
    "balance": "none",
    "scheduler": "constant",
    "on_nan": "stop",
    "cache": "off",
}
# Factors on the learning rate that are tried after a failure; where the loss has risen, the lower ones come first.
HIGHER, LOWER = (10.0, 100.0, 1e3, 1e4), (0.1, 0.01, 1e-3, 1e-4)


@dataclass
class Attempt:
    """What came of training on the batch.

    Attributes:
        losses: of each step, before its update. outputs: (N, K), of the first and of the last step.
        looks: the entries of `--watch` for the first two steps and the last.
        ended: why it ended: "" after STEPS, "learnt", "time" or "not finite".
    """

    net: nn.Module
    lr: float
    losses: list[float] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    looks: list[dict[str, list]] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)  # layers all of whose units had the same weights at the start
    ended: str = ""

    @property
    def rose(self) -> bool:
        return self.ended == "not finite" or (len(self.losses) > 1 and min(self.losses[-5:]) > self.losses[0])

    @property
    def on_its_way(self) -> bool:
        return self.ended == "time" and self.losses[-1] < self.losses[0] / 2

    def __str__(self) -> str:
        if not self.losses:
            return "no step was possible"
        return f"loss {self.losses[0]:.3g} to {self.losses[-1]:.3g} in {counted(len(self.losses), 'step')}"


def overfit(opt: Config, dataset: ImageData) -> list[str]:
    """Prints whether the net learns a batch by heart. Returns what keeps it from that, a line each."""
    start = time.monotonic()
    train, _ = dataset.split(opt.val_fraction, opt.seed)
    opt = opt.model_copy(update=PLAIN | {"batch_size": max(min(opt.batch_size, IMAGES), 2)})
    items = of_each_class(train, len(dataset.classes), opt.batch_size)
    try:
        task, batch = read(opt, dataset, items)
        if problem := causes.of_data(batch, [path for path, _ in items]):
            return [f"one batch cannot be learnt by heart: {problem}"]
        attempt = learn(opt, dataset, batch, opt.lr, FIRST * SECONDS)
        if attempt.ended == "learnt" or attempt.on_its_way:
            return report_success(attempt, opt, dataset, task, train)
        reason = causes.of_net(attempt) or causes.of_rate(attempt, tries(opt, dataset, batch, attempt, start))
    except RunError as e:
        return [str(e)]
    reason = reason or causes.of_end(attempt, opt) or "no reason found: `train --watch` records what each layer does"
    row("overfit", f"FAILED on {counted(len(batch), 'image')}: {attempt}")
    return [f"one batch cannot be learnt by heart: {reason}"]


def report_success(attempt: Attempt, opt: Config, dataset: ImageData, task: Task, train: Items) -> list[str]:
    """Prints what the success says, and what it does not."""
    learnt = "learnt by heart" if attempt.ended == "learnt" else "being learnt by heart when the time was over"
    row("overfit", f"{counted(len(attempt.outputs[0]), 'image')} {learnt}: {attempt}, at --lr={attempt.lr:g}")
    row("", "so the net, its loss, the optimizer and the learning rate work; of other images this says nothing:")
    row("", "compare train with val accuracy in a training of a few epochs")
    labels.report(opt, dataset, task.preprocess, train)
    cut = causes.without_gradient(attempt)
    return [f"no gradient reaches {cut}"] if cut else []


def of_each_class(items: Items, classes: int, count: int) -> Items:
    """So many items, of each class in turn."""
    by_class = [[item for item in items if item[1] == k] for k in range(classes)]
    turns = [mine[turn] for turn in range(max(map(len, by_class))) for mine in by_class if turn < len(mine)]
    return turns[:count]


def read(opt: Config, dataset: ImageData, items: Items) -> tuple[Task, Batch]:
    """The task, and the items as one batch, as validation sees them, in the order given."""
    task, loaders, _ = build_training(opt, dataset)
    loaders.__exit__()
    with train_loader(opt, dataset, items, task.preprocess, task.device) as loader:
        batch = next(iter(loader.set_epoch(0)))
    order = batch.indices.argsort()
    return task, Batch(batch.images[order], batch.labels[order], batch.indices[order])


def learn(opt: Config, dataset: ImageData, batch: Batch, lr: float, seconds: float) -> Attempt:
    """Trains a new net on the batch until it knows it by heart, or STEPS or the time are over."""
    task, loaders, _ = build_training(opt.model_copy(update={"lr": lr}), dataset)
    loaders.__exit__()
    without_dropout(task.net)
    attempt, start = Attempt(task.net, lr, alike=causes.alike_layers(task.net)), time.monotonic()
    bar = Progress(f"one batch at lr {lr:g}", STEPS * len(batch))
    with oom_as_failure(opt, opt.image_size):
        while len(attempt.losses) < STEPS and not attempt.ended:
            step(task, batch, attempt, look=len(attempt.losses) < 2)
            bar.update(len(batch))
            if not attempt.ended and time.monotonic() - start > seconds:
                attempt.ended = "time"
        if attempt.losses and attempt.ended in ("", "time"):
            step(task, batch, attempt, look=True)
    bar.close()
    return attempt


def step(task: Task, batch: Batch, attempt: Attempt, look: bool) -> None:
    """One step on the batch, added to the attempt."""
    torch.manual_seed(len(attempt.losses))
    seen: list[torch.Tensor | None] = []
    handle = task.net.register_forward_hook(lambda module, inputs, output: seen.append(first_tensor(output)))
    try:
        with Look(task.net) if look else nullcontext() as watched:
            metrics = task.train_step(batch)
    except NonFiniteError:
        attempt.ended = "not finite"
        return
    finally:
        handle.remove()
    loss = float(metrics["loss"])
    attempt.losses.append(loss)
    if seen[0] is not None:
        attempt.outputs = [*attempt.outputs[:1], seen[0].detach().float().cpu()]
    if watched:
        attempt.looks.append(watched.values())
    if float(metrics["accuracy"]) == 1 and loss < LEARNT * math.log(len(task.classes)):
        attempt.ended = "learnt"


def tries(opt: Config, dataset: ImageData, batch: Batch, first: Attempt, start: float) -> Iterator[Attempt]:
    """The same with other learning rates, the likely direction first."""
    factors = (*LOWER, *HIGHER[:2]) if first.rose else (*HIGHER, *LOWER[:2])
    for number, factor in enumerate(factors):
        left = SECONDS - (time.monotonic() - start)
        if left > 1:
            yield learn(opt, dataset, batch, first.lr * factor, left / (len(factors) - number))


def without_dropout(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ in (
            "StochasticDepth",
            "DropPath",
        ):
            for name in ("p", "drop_prob"):
                if hasattr(module, name):
                    setattr(module, name, 0.0)
