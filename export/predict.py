"""Label images with the net beside this file: python predict.py [MODEL.onnx] IMAGE...

Needs numpy, pillow and onnxruntime. Prints a line of CSV for each image: its path, the class, its probability.
"""

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path, side, crop_pct=1.0, interpolation="bilinear", channels=3):
    """The middle square of the image, upright and on white: (side, side, channels) uint8."""
    with Image.open(path) as image:
        width, height = size = image.size
        part = max(round(min(size) * crop_pct), 1)
        draft = image.draft("RGB", tuple(math.ceil(length * side / part) for length in size))  # of a JPEG: faster
        fx, fy = (draft[1][2] / width, draft[1][3] / height) if draft else (1, 1)
        left, top = (width - part) // 2, (height - part) // 2
        box = left * fx, top * fy, (left + part) * fx, (top + part) * fy
        turn = image.getexif().get(0x0112, 1)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        square = image.convert("RGB").resize((side, side), Image.Resampling[interpolation.upper()], box)
        square.getexif()[0x0112] = turn
        square = ImageOps.exif_transpose(square).convert("RGB" if channels == 3 else "L")
    return np.asarray(square).reshape(side, side, channels)


def probabilities(session, images, mean, std):
    """Of each class: images (N, S, S, C) uint8 -> (N, K)."""
    given = session.get_inputs()[0]
    if given.name == "pixels":
        return session.run(None, {"pixels": images})[0]
    normalized = (images / 255 - np.array(mean)) / np.array(std)
    logits = session.run(None, {given.name: normalized.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main(words):
    own = words and words[0].endswith(".onnx")
    model = words.pop(0) if own else str(Path(__file__).with_name("model.onnx"))
    session = onnxruntime.InferenceSession(model)
    told = session.get_modelmeta().custom_metadata_map
    mean, std, classes = (json.loads(told[name]) for name in ("mean", "std", "classes"))
    side, crop_pct, interpolation = (json.loads(told[name]) for name in ("image_size", "crop_pct", "interpolation"))
    rows = csv.writer(sys.stdout, lineterminator="\n")
    for path in words:
        image = read(path, side, crop_pct, interpolation, len(mean))
        odds = probabilities(session, image[None], mean, std)[0]
        rows.writerow([path, classes[odds.argmax()], f"{odds.max():.4f}"])


if __name__ == "__main__":
    main(sys.argv[1:])
