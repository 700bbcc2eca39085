"""Make an image with the net beside this file: python generate.py [MODEL.onnx] [SEED]; writes generated.png.

Needs numpy, pillow and onnxruntime.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def main(words):
    own = words and words[0].endswith(".onnx")
    session = onnxruntime.InferenceSession(words.pop(0) if own else Path(__file__).with_name("model.onnx"))
    latents = session.get_inputs()[0]
    seed = int(words[0]) if words else 0
    drawn = np.random.default_rng(seed).standard_normal((1, latents.shape[1]), dtype=np.float32)
    images = session.run(None, {latents.name: drawn})[0]
    if images.dtype != np.uint8:  # (N, C, S, S) in [-1, 1]
        images = ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    Image.fromarray(images[0].squeeze()).save("generated.png")


if __name__ == "__main__":
    main(sys.argv[1:])
