"""Where the net looked in the images that it got most wrong."""

import numpy as np
import torch

from analysis import gradcam
from analysis.judged import Judged
from report import gallery
from report.html import Markup, join, paragraph
from report.subject import Subject
from utils.errors import RunError, UsageError

TITLE = "Where it looked"
SHOWN = 8  # images


def build(subject: Subject) -> Markup:
    judged = subject.judged
    indices = judged.worst(SHOWN) if judged else []
    if judged is None or not indices:
        return Markup()
    items = [judged.items[index] for index in indices]
    predicted = torch.from_numpy(judged.predicted[indices])
    try:
        images = judged.images(items)
        maps = [gradcam.heatmaps(judged.task, torch.from_numpy(images), k) for k in (predicted, judged.labels[indices])]
    except (UsageError, RunError) as e:
        return paragraph(f"No heat maps: {e}", "note")
    told = (
        "The worst mistakes: the image, what speaks for the class that was predicted, and what speaks for its label "
        "(Grad-CAM, arXiv:1610.02391): yellow much, violet little."
    )
    figures = [
        _figure(judged, index, image, pair)
        for index, image, pair in zip(indices, images, zip(*maps, strict=True), strict=True)
    ]
    return join([paragraph(told), gallery.gallery(figures)])


def _figure(judged: Judged, index: int, image: np.ndarray, maps: tuple[np.ndarray, ...]) -> Markup:
    path, label = judged.items[index]
    names = [judged.classes[int(judged.predicted[index])], judged.classes[label]]
    shown = [gallery.thumbnail(image, gallery.short(judged.name(path)))]
    shown += [
        gallery.thumbnail(gradcam.overlay(image, heat), f"heat map for {name}")
        for heat, name in zip(maps, names, strict=True)
    ]
    return gallery.captioned(join(shown, " "), [gallery.short(judged.name(path)), f"image, {names[0]}, {names[1]}"])
