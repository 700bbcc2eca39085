"""Why a net cannot learn one batch by heart: each cause has a sign of its own, and rates are tried, not guessed."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from config import Config
from data.loaders import Batch
from utils.text import few, printable

if TYPE_CHECKING:
    from analysis.overfit import Attempt

ROWS = ("layers", "activation", "gradient", "update")
DEAD = 0.9  # of a layer's units
SAME = 1e-4  # of their size: smaller differences between outputs of images, or weights of units, are none


def of_data(batch: Batch, paths: list[Path]) -> str | None:
    """Images that no net could tell apart: the same pixels under two labels, images of a single value.

    Labels that were shuffled cannot be told here: a net learns those of distinct images by heart as well.
    """
    by_pixels = defaultdict(list)
    for index, image in enumerate(batch.images):
        by_pixels[image.numpy().tobytes()].append(index)
    plain = [index for index, image in enumerate(batch.images) if image.amin() == image.amax()]
    if len(plain) > len(batch) // 2:
        return f"{len(plain)} of its {len(batch)} images are of a single value, as {printable(paths[plain[0]])}"
    for group in by_pixels.values():
        if len({int(batch.labels[index]) for index in group}) > 1:
            names = few(printable(paths[index]) for index in group)
            return f"the same image stands under two labels: {names}"
    return None


def of_net(attempt: "Attempt") -> str | None:
    """What is wrong with the net itself, whatever the learning rate."""
    if not attempt.losses:
        return None
    if alike := [name for name in attempt.alike if name in alike_layers(attempt.net)]:
        return f"all units of {few(alike)} start with the same weights, so they can never become different"
    if dead := dead_layers(attempt.looks[0]):
        return f"dead from the start: {dead} for all images of the batch"
    if cut := without_gradient(attempt):
        return f"no gradient reaches {cut}"
    if ignores_input(attempt.outputs[0]):
        return "the net ignores its input: it gives the same output for all images, from the start"
    return _bounded(attempt.outputs)


def _bounded(outputs: list[torch.Tensor]) -> str | None:
    """An activation after the last layer, which cross entropy does not expect."""
    both = torch.cat(outputs)
    low, high = float(both.min()), float(both.max())
    if low >= 0 and (both.sum(dim=1) - 1).abs().max() < 1e-2:
        return "the outputs are probabilities: the loss has its own softmax, so leave out that at the net's end"
    if low >= 0:
        what = "they lie between 0 and 1, as a sigmoid's" if high <= 1 else "none is below 0, as after a ReLU"
        return f"the outputs are not free: {what}; the last layer must have no activation"
    if low >= -1 and high <= 1 and max(-low, high) > 0.99:
        return (
            "the outputs are not free: they lie between -1 and 1, as a tanh's; the last layer must have no activation"
        )
    return None


def of_rate(first: "Attempt", others: Iterable["Attempt"]) -> str | None:
    """The learning rate, where another one learns the batch."""
    for other in others:
        if other.ended == "learnt":
            what = "low" if other.lr > first.lr else "high"
            how = f"--lr={other.lr:g} learns the batch in {len(other.losses)} steps"
            return f"the learning rate {first.lr:g} is too {what} ({first}): {how}"
    return None


def of_end(attempt: "Attempt", opt: Config) -> str | None:
    """What there is to see where no other learning rate helps."""
    if attempt.ended == "not finite":
        return (
            "the loss or the gradients are not finite, with lower learning rates too: `train --watch` names the layer"
        )
    if dead := dead_layers(attempt.looks[-1]):
        return f"units have died: {dead} for all images of the batch"
    if ignores_input(attempt.outputs[-1]):
        return "the net has come to give the same output for all images"
    weights = list(attempt.net.parameters())
    frozen = sum(p.numel() for p in weights if not p.requires_grad) / sum(p.numel() for p in weights)
    if frozen > 0.5:
        own = f"--freeze={opt.freeze}" if opt.freeze else "requires_grad is False"
        return f"{frozen:.0%} of the weights are frozen ({own}), and the rest cannot do it"
    if attempt.ended == "time":
        return f"the time was over after {len(attempt.losses)} steps: try a smaller --image-size"
    return None


def without_gradient(attempt: "Attempt") -> str | None:
    """Layers that the net calls and that are to learn, but to which no gradient, or only one of 0, ever comes."""
    called: list[str] = []
    reached: set[str] = set()
    for look in attempt.looks:
        for name, output, gradient, update in zip(*(look[key] for key in ROWS), strict=True):
            if output is not None and update != 0 and name not in called:  # 0: it is frozen
                called.append(name)
            if gradient:
                reached.add(name)
    cut = [name for name in called if name not in reached]
    return f"{few(cut)}: is something detached, or multiplied by 0, on the way to the loss?" if cut else None


def alike_layers(net: nn.Module) -> list[str]:
    """The layers all of whose units have the same weights, as all 0."""
    found = []
    for name, p in net.named_parameters():
        rows = p.detach().flatten(1) if p.ndim > 1 and len(p) > 1 else None
        if rows is not None and bool((rows - rows[:1]).abs().max() <= SAME * rows.abs().max()):
            found.append(name.rpartition(".")[0])
    return found


def dead_layers(look: dict[str, list]) -> str | None:
    """The layers of whose units almost all give 0."""
    shares = zip(look["layers"], look["dead"], strict=True)
    dead = [f"{name} ({share:.0%} of units)" for name, share in shares if share is not None and share >= DEAD]
    return few(dead) if dead else None


def ignores_input(outputs: torch.Tensor) -> bool:
    """(N, K): whether the outputs are the same for all images."""
    return bool(outputs.std(dim=0).max() <= SAME * outputs.abs().max())
