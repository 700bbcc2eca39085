"""Pictures that people look at instead of reading tables."""

import numpy as np
import torch
from PIL import Image, ImageDraw

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
