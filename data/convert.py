"""Converts the images and labels that data sets of other programs give."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from utils.errors import UsageError

ROUNDING = 1e-3  # floats so little out of [0, 1] are clipped
EXPECTED = "a PIL image, a uint8 array (H, W, C), a uint8 tensor (C, H, W) or a float tensor in [0, 1]"


def as_image(image: Any, where: str) -> Path | Image.Image:
    """An image of a Dataset as a PIL image, or the path of its file.

    Args:
        where: what to call it in an error: "image 3 of Mine".

    Raises:
        UsageError: it is of another type, or has floats out of [0, 1].
    """
    if isinstance(image, Path | Image.Image):
        return image
    if not isinstance(image, np.ndarray | torch.Tensor):
        raise UsageError(f"{where} is a {type(image).__name__}: expected {EXPECTED}")
    pixels = uint8_images(image[None], where)[0]
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def uint8_images(values: np.ndarray | torch.Tensor, where: str) -> np.ndarray:
    """Images as (N, H, W, C) uint8.

    Args:
        values: (N, H, W), arrays (N, H, W, C) or tensors (N, C, H, W), C = 1 or 3; or with the other order of
            axes, if the sizes are unambiguous. uint8, or floats in [0, 1].

    Raises:
        UsageError: another shape or type, or floats out of [0, 1].
    """
    first = isinstance(values, torch.Tensor)
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.ndim == 3:
        array, first = array[..., None], False
    if array.ndim == 4 and array.shape[1 if first else 3] not in (1, 3):
        first = not first
    if array.ndim != 4 or array.shape[1 if first else 3] not in (1, 3):
        raise UsageError(f"{where}: shape {tuple(array.shape[1:])} is no image: expected {EXPECTED}")
    array = array.transpose(0, 2, 3, 1) if first else array
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise UsageError(
                f"{where} holds floats from {low:.3g} to {high:.3g}: give floats in [0, 1] or uint8 "
                "(leave out Normalize: this program normalizes)"
            )
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UsageError(f"{where} is of type {array.dtype}: expected {EXPECTED}")
    return np.ascontiguousarray(array)


def as_label(label: Any, index: int, name: str) -> int:
    """The label of item `index` of the set `name` as an int.

    Raises:
        UsageError: it is no integer.
    """
    if isinstance(label, np.ndarray | torch.Tensor) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise UsageError(
            f"label {index} of {name} is a {type(label).__name__}: expected an int, or a tensor of one int"
        )
    return int(label)


def as_labels(values: Iterable[Any]) -> list[int] | None:
    """The labels of a whole set: of integers, or of (file, label); None if they are anything else."""
    if isinstance(values, np.ndarray | torch.Tensor):
        array = np.asarray(values)
        return array.tolist() if array.ndim == 1 and array.dtype.kind in "iu" else None
    entries = [value[1] if isinstance(value, tuple) and len(value) == 2 else value for value in values]
    try:
        return [as_label(entry, i, "") for i, entry in enumerate(entries)]
    except UsageError:
        return None
