"""Make an image with the net beside this file: python generate.py [MODEL.onnx] [SEED [CLASS]]; writes generated.png.

CLASS: of a net that was trained with --conditional. Needs numpy, pillow and onnxruntime.
"""

import json
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
    texts = session.get_modelmeta().custom_metadata_map
    if json.loads(texts["checkpoint"])["metadata"].get("model_args", {}).get("conditional"):
        classes = json.loads(texts["classes"])
        if words[1:] and words[1] not in classes:
            sys.exit(f"generate.py: no class {words[1]!r}: the classes are {', '.join(classes)}")
        number = classes.index(words[1]) if words[1:] else seed % len(classes)
        drawn[:, -len(classes) :] = np.arange(len(classes)) == number
    images = session.run(None, {latents.name: drawn})[0]
    if images.dtype != np.uint8:  # (N, C, S, S) in [-1, 1]
        images = ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    Image.fromarray(images[0].squeeze()).save("generated.png")


if __name__ == "__main__":
    main(sys.argv[1:])
