"""Contact sheets and animations of images."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from utils import files

RIGHT, WRONG = (22, 120, 60), (190, 30, 45)
SIDE, STRIP, COLUMNS = 128, 16, 8  # pixels, pixels, thumbnails a row


def predictions(
    images: np.ndarray, labels: torch.Tensor, logits: torch.Tensor, classes: list[str], count: int = 16
) -> np.ndarray:
    """Draws the first `count` images, each above a strip with the predicted class and its probability.

    Args:
        images: (N, S, S, 3) or (N, S, S, 1) uint8. labels: (N,). logits: (N, K).
    Returns:
        (H, W, 3) uint8; the strip is green if the prediction is right, else red.
    """
    probs, predicted = logits.softmax(dim=1).max(dim=1)
    count = min(count, len(images))
    rows = -(-count // COLUMNS)
    sheet = Image.new("RGB", (min(count, COLUMNS) * SIDE, rows * (SIDE + STRIP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i in range(count):
        x, y = i % COLUMNS * SIDE, i // COLUMNS * (SIDE + STRIP)
        colour = np.broadcast_to(images[i], (*images[i].shape[:2], 3))  # grey or not
        sheet.paste(Image.fromarray(np.ascontiguousarray(colour)).resize((SIDE, SIDE)), (x, y))
        fill = RIGHT if predicted[i] == labels[i] else WRONG
        draw.rectangle((x, y + SIDE, x + SIDE, y + SIDE + STRIP), fill=fill)
        draw.text((x + 4, y + SIDE + 2), f"{classes[predicted[i]][:14]} {probs[i]:.2f}", fill="white")
    return np.asarray(sheet)


def grid(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """Puts (N, S, S, C) uint8 images into a nearly square grid, with white gaps; returns (H, W, 3) uint8."""
    count, side = images.shape[:2]
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (side + gap), i % columns * (side + gap)
        sheet[y : y + side, x : x + side] = image  # grey or not
    return sheet


def write(path: str | Path, image: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 image as a PNG, atomically."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path, "wb") as file:
        Image.fromarray(image).save(file, format="png")


def write_sequence(path: str | Path, images: np.ndarray) -> None:
    """Writes (N, S, S, C) uint8 as a GIF that plays forwards and backwards, or side by side as a PNG."""
    frames = [grid(image[None]) for image in images]
    if Path(path).suffix.lower() == ".gif":
        first, *rest = (Image.fromarray(frame) for frame in frames + frames[-2:0:-1])
        with files.atomic_write(path, "wb") as file:
            first.save(file, "gif", save_all=True, append_images=rest, duration=80, loop=0)
    else:
        write(path, np.concatenate(frames, axis=1))
