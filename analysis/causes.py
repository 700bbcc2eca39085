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

DEAD = 0.9  # of a layer's units
SAME = 1e-4  # of their size: differences between the outputs of all images below it are none


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
    if attempt.ended == "no gradient":
        if not any(p.requires_grad for p in attempt.net.parameters()):
            return "no weight of the net learns: requires_grad is False for all of them"
        return "the output is cut off from the weights: a detach(), no_grad(), .data or argmax() in forward"
    if not attempt.losses:
        return None
    if cut := without_gradient(attempt):
        return f"no gradient reaches {cut}"
    if attempt.constant and (names := [name for name in attempt.constant if _has_stayed(attempt, name)]):
        return f"all weights of {few(names)} start with the same value, so its units cannot become different"
    if dead := dead_layers(attempt.looks[0]):
        return f"dead from the start: {dead} for all images of the batch"
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
        return "the outputs are not free: they lie between -1 and 1, as a tanh's; the last layer must have no activation"
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
        return "the loss or the gradients are not finite, with lower learning rates too: `train --watch` names the layer"
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
    """Layers that the net calls and that are to learn, but to which no gradient, or one of 0 only, comes in any look."""
    looks = attempt.looks
    if not looks:
        return None
    cut = []
    for i, name in enumerate(looks[0]["layers"]):
        at = [look for look in looks if i < len(look["layers"])]
        called = looks[0]["activation"][i] is not None and looks[0]["update"][i] != 0
        if called and all(not look["gradient"][i] for look in at):
            cut.append(name)
    return f"{few(cut)}: is something detached, or multiplied by 0, on the way to the loss?" if cut else None


def constant_layers(net: nn.Module) -> list[str]:
    """The layers whose filters or matrix hold a single value, as all 0."""
    weights = {name: p for name, p in net.named_parameters() if p.ndim > 1 and p.numel() > 1}
    return [name.rpartition(".")[0] for name, p in weights.items() if bool((p == p.flatten()[0]).all())]


def dead_layers(look: dict[str, list]) -> str | None:
    """The layers of whose units almost all give 0."""
    shares = zip(look["layers"], look["dead"], strict=True)
    dead = [f"{name} ({share:.0%} of units)" for name, share in shares if share is not None and share >= DEAD]
    return few(dead) if dead else None


def ignores_input(outputs: torch.Tensor) -> bool:
    """(N, K): whether the outputs are the same for all images."""
    return bool(outputs.std(dim=0).max() <= SAME * outputs.abs().max())
