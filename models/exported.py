"""Nets that `export` has written, in PyTorch's place."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils import exported


class ExportedNet(nn.Module):
    """A classifier from a file: images (N, C, S, S) float32, normalized -> logits (N, K), on the CPU.

    Of a net that takes pixels and gives probabilities these are the logarithms of them.

    Args:
        source: the file, or what would be in it. texts: what it says of itself, see utils/exported.py.
    """

    task = "Classify"

    def __init__(self, source: Path | bytes, kind: str, texts: dict[str, str]) -> None:
        super().__init__()
        self.num_classes: int = len(json.loads(texts["classes"]))
        mean, std = (torch.tensor(json.loads(texts[name])) for name in ("mean", "std"))
        self.in_channels: int = len(mean)
        self.mean, self.std = mean[:, None, None], std[:, None, None]
        self.pixels = texts["input"] == "pixels"
        self.run: Any = _onnx(source) if kind == ".onnx" else _torch(source)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        place, images = images.device, images.float().cpu()
        if not self.pixels:
            return self.run(images.contiguous()).to(place)
        pixels = ((images * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return logarithms(self.run(pixels.permute(0, 2, 3, 1).contiguous())).to(place)


def logarithms(probabilities: torch.Tensor) -> torch.Tensor:
    """Those of float32 numbers; of 0 a finite one, too."""
    return probabilities.clamp(1e-37).log()


def _onnx(source: Path | bytes) -> Any:
    package = exported.onnxruntime()
    options = package.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = package.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(np.ascontiguousarray(session.run(None, {name: images.numpy()})[0]))


def _torch(source: Path | bytes) -> Any:
    module = torch.export.load(BytesIO(source) if isinstance(source, bytes) else source).module()
    return lambda images: module(images)  # a part of a net would be asked to train
