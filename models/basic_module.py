"""BasicModule: what every model of this folder can do."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from utils import checkpoints, state_dicts


class BasicModule(nn.Module):
    """A module that knows its name, saves and loads itself, and brings its optimizer.

    A class in this folder that derives from it is a model: its class name is what `--model` takes. Its constructor is
    called with those of `num_classes`, `in_channels` and `image_size` that it takes.
    """

    task = "Classify"  # the class in engine/tasks/ that trains and evaluates it
    num_classes: int | None = None  # set by the program where the class does not
    torchvision_name: str | None = None  # torchvision's name of the same net, for --pretrained

    def __init__(self) -> None:
        super().__init__()
        self.model_name = type(self).__name__

    def init_from_data(self, images: Callable[[], torch.Tensor]) -> None:
        """Called before a training from scratch: a net may set weights from what `images()` gives.

        Args:
            images: gives (N, C, S, S) float32, the first batch of training images, normalized.
        """

    def save(self, name: str | Path | None = None) -> Path:
        """Saves the weights, whole or not at all, and returns the path.

        Args:
            name: the file to write; by default checkpoints/<model>_<MMDD_HHMMSS>.pth.
        """
        path = Path(name or f"checkpoints/{self.model_name}_{time.strftime('%m%d_%H%M%S')}.pth")
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"model": self.model_name, "num_classes": self.num_classes}
        checkpoints.write({"metadata": metadata, "net": self.state_dict()}, path)
        return path

    def load(self, path: str | Path) -> "BasicModule":
        """Loads weights in place and returns self: `net = ResNet34(num_classes=2).load(path)`.

        Args:
            path: a checkpoint, a plain state dict, or a run folder (its best.pth, else its last.pth).

        Raises:
            UsageError: no such file, a damaged one, another model or another class count.
        """
        state_dicts.load_net(self, checkpoints.read(path), path)
        return self

    def get_optimizer(self, lr: float, weight_decay: float = 0) -> torch.optim.Optimizer:
        """Adam over all parameters (book, chapter 6). A class that overrides it is trained by the optimizer it returns.

        Args:
            lr: learning rate, above 0.
            weight_decay: an L2 term in the gradient; 0 for none.
        """
        return torch.optim.Adam(self.parameters(), lr=lr, weight_decay=weight_decay)
