"""BasicModule: what every model of this folder can do."""

import inspect
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from engine.muon import Muon
from utils import checkpoints, registry
from utils.errors import UsageError


class BasicModule(nn.Module):
    """A module that knows its name, saves and loads itself, and brings its optimizer.

    A class in this folder that derives from it is a model: its class name is what `--model` takes.
    A classifier takes `num_classes` and keeps it: its checkpoints state it and refuse another one. One that fits
    itself to the images takes `in_channels` or `image_size` too.
    """

    task = "Classify"  # the class in engine/ that trains and judges it
    num_classes: int | None = None  # None: not a classifier
    in_channels: int = 3
    torchvision_name: str | None = None  # torchvision's name of the same net, for --pretrained

    def __init__(self):
        super().__init__()
        self.model_name = type(self).__name__

    def begin_with(self, images: Callable[[], torch.Tensor]) -> None:
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
        content = {"model": self.model_name, "num_classes": self.num_classes, "net": self.state_dict()}
        checkpoints.write(content, path)
        return path

    def load(self, path: str | Path) -> "BasicModule":
        """Loads weights in place and returns self: `net = ResNet34(num_classes=2).load(path)`.

        Args:
            path: a checkpoint, a plain state dict, or a run folder (its best.pth, else its last.pth).

        Raises:
            UsageError: no such file, a damaged one, another model or another class count.
        """
        checkpoints.load_net(self, checkpoints.read(path), path)
        return self

    def get_optimizer(self, lr: float, weight_decay: float = 0, name: str = "Adam", **options):
        """An optimizer over all parameters; override it to treat some of them differently.

        Args:
            lr: learning rate, above 0.
            weight_decay: as the optimizer defines it; 0 for none.
            name: a class of torch.optim that takes lr and weight_decay; Muon: see utils/muon.py.
            options: the optimizer's own further arguments (`momentum=0.9`).

        Raises:
            UsageError: no such optimizer, or a value that it refuses.
        """
        if name == "Muon":
            return Muon(self, lr, weight_decay, **options)
        optimizer = getattr(torch.optim, registry.find(name, _optimizers(), "optimizer"))
        try:
            return optimizer(self.parameters(), lr=lr, weight_decay=weight_decay, **options)
        except (TypeError, ValueError) as e:
            raise UsageError(f"{optimizer.__name__} refuses its options: {e}") from e


def _optimizers() -> list[str]:
    """The optimizers that take lr and weight_decay; the base class and those with another step do not."""
    classes = {name: value for name, value in vars(torch.optim).items() if inspect.isclass(value)}
    wanted = {"lr", "weight_decay"}
    return sorted(name for name, c in classes.items() if wanted <= set(inspect.signature(c).parameters))
