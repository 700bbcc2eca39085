"""Contact sheets and animations of images."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.utils import make_grid

from utils import files

RIGHT, WRONG = (22, 120, 60), (190, 30, 45)
SIDE, STRIP, COLUMNS, GAP = 128, 16, 8, 2  # pixels, pixels, thumbnails a row, pixels
SHORT = 9  # letters of a class name that a strip has room for


def predictions(
    images: np.ndarray, labels: torch.Tensor, logits: torch.Tensor, classes: list[str], count: int = 16
) -> np.ndarray:
    """Draws the first `count` images, each above a strip with the predicted class and its probability.

    Where the prediction is wrong, the true class stands beside it: "cat 62%, is dog".

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
        text = f"{classes[predicted[i]][:SHORT]} {probs[i]:.0%}"
        text += "" if predicted[i] == labels[i] else f", is {classes[labels[i]][:SHORT]}"
        draw.text((x + 4, y + SIDE + 2), text, fill="white")
    return np.asarray(sheet)


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Puts (N, H, W, C) uint8 images into a grid with white gaps; returns (H', W', 3) uint8.

    Args:
        columns: None: as nearly a square as N allows.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    sheet = make_grid(torch.from_numpy(images).permute(0, 3, 1, 2), nrow=columns, padding=GAP, pad_value=255)
    return sheet.permute(1, 2, 0).numpy()


def write(path: str | Path, image: np.ndarray) -> None:
    """Writes an (H, W, 3) uint8 image as a PNG, atomically, into a folder that exists."""
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
