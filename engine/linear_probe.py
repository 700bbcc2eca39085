"""Fitting the head of a pretrained net before the training: Kumar et al. 2022, arXiv:2202.10054 (LP-FT).

A head that starts afresh sends large gradients into a body that is good already. Fitted first, to features that are
computed once, it does not; and often that alone is enough.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from data.loaders import EpochLoader
from engine.optimizers import linear_head
from engine.tasks.classify import Classify
from utils import world
from utils.errors import UsageError
from utils.progress import with_progress

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the L2 term, on features of deviation 1
HELD_OUT = 5  # one image of so many chooses the strength
STEPS = 200  # of LBFGS at most


def fit_head(task: Classify, loader: EpochLoader) -> str:
    """Sets the last linear layer of the task's net to what fits the features of all images best; returns what it did.

    Each image counts as it is, and with `--flip` mirrored as well. The loss is that of the training, with an L2 term
    whose strength is chosen on a fifth of the images.

    Raises:
        UsageError: the net does not end in a linear layer.
    """
    with loader.batch_sampler.whole():
        features, labels, head, scale = _features(task, loader)
    mean, std = features.mean(dim=(0, 1)), features.std(dim=(0, 1)).clamp(min=1e-6)
    mean = mean if head.bias is not None else torch.zeros_like(mean)
    features = (features - mean) / std
    held = torch.arange(len(labels)) % HELD_OUT == 0
    scores = {}
    for strength in STRENGTHS:
        weight, bias = _fit(features[~held].flatten(0, 1), _for_views(labels[~held], features), strength, task, head)
        logits = (features[held] @ weight.T + bias).mean(dim=1)
        scores[strength] = F.cross_entropy(logits, labels[held]).item(), (logits.argmax(1) == labels[held])
    best = min(scores, key=lambda strength: scores[strength][0])
    weight, bias = _fit(features.flatten(0, 1), _for_views(labels, features), best, task, head)
    weight, bias = world.same((weight / std, bias - (weight / std) @ mean))
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        if head.bias is not None:
            head.bias.copy_(bias / scale)
    views = "images and their mirror images" if features.shape[1] > 1 else "images"
    right = scores[best][1].float().mean().item()
    return (
        f"the head is fitted to the features of {len(labels)} {views}: {right:.2%} right of a fifth that was held out"
    )


def _features(task: Classify, loader: EpochLoader) -> tuple[torch.Tensor, torch.Tensor, nn.Linear, float]:
    """Features (N, views, F) and labels (N,) on the CPU, the layer that takes them, and by what its output counts."""
    net = task.net.eval()
    head = linear_head(net, "--linear-probe")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = head.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    features: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    scale = 1.0
    try:
        with torch.inference_mode():
            for batch in with_progress(loader.set_epoch(0), "features", len(loader.items)):
                views = []
                for images in _views(task, task._images(batch.to(task.device.device))):
                    logits = task._logits(net, images)
                    given, output = (tensor.float() for tensor in seen.pop())
                    scale = float((logits * output).sum() / output.square().sum().clamp(min=1e-12))
                    if given.ndim != 2 or not torch.allclose(logits, output * scale, rtol=0.05, atol=1e-3):
                        raise UsageError(f"--linear-probe: {task.opt.model} does not end in its last linear layer")
                    views.append(given.cpu())
                features.append(torch.stack(views, dim=1))
                labels.append(batch.labels.cpu())
    finally:
        hook.remove()
    return torch.cat(features), torch.cat(labels), head, scale


def _views(task: Classify, images: torch.Tensor) -> Iterator[torch.Tensor]:
    yield images
    if task.opt.flip:
        yield images.flip(3)


def _for_views(labels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return labels.repeat_interleave(features.shape[1])


def _fit(
    features: torch.Tensor, labels: torch.Tensor, strength: float, task: Classify, head: nn.Linear
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (K, F) and bias (K,) of the multinomial logistic regression."""
    weight = torch.zeros(len(task.classes), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(task.classes), requires_grad=head.bias is not None)
    learning = [p for p in (weight, bias) if p.requires_grad]
    optimizer = torch.optim.LBFGS(learning, max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = task.loss(features @ weight.T + bias, labels) + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()
