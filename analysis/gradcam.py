"""Grad-CAM: where in an image a net looks for a class (Selvaraju et al. 2017, arXiv:1610.02391)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from analysis import layers
from engine.tasks.base import NonFiniteError
from utils.errors import UsageError

STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # of viridis, which all eyes read
OPAQUE = 0.65  # of the colour where a map is 1; where it is 0 there is none


@dataclass
class Pass:
    """A forward pass whose gradients begin at a layer.

    Attributes:
        logits: (N, K) float32. output: of the layer, as it left it.
    """

    logits: torch.Tensor
    output: torch.Tensor

    def maps(self, classes: torch.Tensor) -> torch.Tensor:
        """Grad-CAM of a class for each image, not yet scaled: (N, h, w) float32, 0 or more.

        The layer's channels, each weighted by the mean of the gradient of the class's logit, summed; what speaks
        against the class is 0.
        """
        scores = self.logits.gather(1, classes.to(self.logits.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, self.output, retain_graph=True)
        channels, gradients = layers.as_map(self.output.detach()), layers.as_map(gradient)
        assert channels is not None and gradients is not None
        return (gradients.mean(dim=(2, 3), keepdim=True) * channels).sum(dim=1).relu()


def forward(task: Any, images: torch.Tensor, layer: str) -> Pass:
    """Runs a batch through the net of a task, in float32.

    Nothing is kept for gradients before the layer, and a frozen net has some behind it.

    Args:
        images: (N, S, S, C) uint8, as the net sees them.
        layer: its name; of several calls the last one counts.

    Raises:
        UsageError: there is no such layer, it gives no map, or the logits do not depend on it.
        NonFiniteError: a logit is NaN or infinite.
    """
    net, outputs = task.eval_model.eval(), list[torch.Tensor]()

    def begin(name: str, module: nn.Module, given: tuple, output: Any) -> torch.Tensor:
        if layers.as_map(output) is None or len(output) != len(images):
            raise layers.no_map(name, output)
        torch.set_grad_enabled(True)  # until the end of no_grad
        outputs[:] = [output.detach().clone().requires_grad_()]
        return outputs[0].clone()  # the next layer may work in place

    with torch.no_grad(), layers.watched(net, begin, {layer: layers.find(net, layer)}):
        logits = net(layers.inputs(task, images)).float()
    if not outputs or not logits.requires_grad:
        raise UsageError(f"--layer={layer}: the logits do not depend on it: name another layer")
    if not logits.isfinite().all():
        raise NonFiniteError("the net's output")
    return Pass(logits, outputs[0])


def heatmaps(
    task: Any, images: torch.Tensor, classes: torch.Tensor | None = None, layer: str | None = None
) -> np.ndarray:
    """Grad-CAM of each image: (N, h, w) float32 in [0, 1], each scaled by its own maximum; a blank one is 0.

    Args:
        images: (N, S, S, C) uint8, as the net sees them: one batch.
        classes: (N,) int64, of which class; None: of the predicted one.
        layer: its name; None: the last that gives a map.

    Raises:
        UsageError: the layer gives no map, or there is none of that name.
        NonFiniteError: a logit is NaN or infinite.
    """
    layers.check_classifier(task, "Grad-CAM")
    images = torch.as_tensor(images)
    done = forward(task, images, layer or layers.last_map(task, images[:1]))
    return scaled(done.maps(done.logits.argmax(dim=1) if classes is None else torch.as_tensor(classes)))


def scaled(maps: torch.Tensor) -> np.ndarray:
    """(N, h, w), 0 or more -> float32 in [0, 1], each divided by its maximum."""
    tops = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(tops > 0, maps / tops, 0).float().cpu().numpy()


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """The image in grey under the colours of the heat map, from violet (little) to yellow: (S, S, 3) uint8.

    Args:
        image: (S, S, C) uint8.
        heatmap: (h, w) in [0, 1], enlarged bilinearly.
    """
    grey = np.repeat(np.asarray(image, dtype=np.float32).mean(axis=2, keepdims=True), 3, axis=2)
    small = torch.from_numpy(np.ascontiguousarray(heatmap, dtype=np.float32))[None, None]
    heat = F.interpolate(small, grey.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    places = np.linspace(0, 1, len(STOPS))
    colours = np.stack([np.interp(heat, places, [stop[i] for stop in STOPS]) for i in range(3)], axis=2)
    share = OPAQUE * heat[:, :, None]
    return (grey * (1 - share) + colours * share).round().clip(0, 255).astype(np.uint8)
