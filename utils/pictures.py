"""Pictures that people look at instead of reading tables."""

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
    """The first `count` images, each over a strip with the predicted class and its probability.

    Args:
        images: (N, S, S, 3) or (N, S, S, 1) uint8. labels: (N,). logits: (N, K).
    Returns:
        (H, W, 3) uint8; the strip is green where the prediction is right, red where it is wrong.
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
    """(N, S, S, C) uint8 in rows, as nearly a square as N allows; (H, W, 3) uint8, white between."""
    count, side = images.shape[:2]
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (side + gap), i % columns * (side + gap)
        sheet[y : y + side, x : x + side] = image  # grey or not
    return sheet


def write(path: str | Path, image: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 picture as a PNG, whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path, "wb") as file:
        Image.fromarray(image).save(file, format="png")


def write_walk(path: str | Path, images: np.ndarray) -> None:
    """Writes (N, S, S, C) uint8 as a GIF that goes to and fro, or else side by side as a PNG."""
    frames = [grid(image[None]) for image in images]
    if Path(path).suffix.lower() == ".gif":
        first, *rest = (Image.fromarray(frame) for frame in frames + frames[-2:0:-1])
        with files.atomic_write(path, "wb") as file:
            first.save(file, "gif", save_all=True, append_images=rest, duration=80, loop=0)
    else:
        write(path, np.concatenate(frames, axis=1))
