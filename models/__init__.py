"""Models by name: this folder's classes, and every classifier of torchvision.

A file of this folder with a class that derives from BasicModule adds a model; there is no list to edit.
Importing the package and asking for names imports neither torch nor the models: `models.ResNet34` imports
models/resnet34.py.
"""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from utils import registry
from utils.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build", "check_input", "describe", "entries", "find", "names", "task_of", "torchvision_names"]


@cache
def entries() -> dict[str, registry.Entry]:
    """{class name: Entry} of this folder's models."""
    return registry.scan(Path(__file__).parent, base="BasicModule")


def names() -> list[str]:
    """This folder's models."""
    return list(entries())


def torchvision_names() -> list[str]:
    """torchvision's classifiers, without importing torchvision."""
    return sorted(_torchvision_files())


@cache
def _torchvision_files() -> dict[str, Path]:
    """{name: file} of the functions that torchvision registers as classifiers; empty where there is none."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return {}
    registered = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    files = (Path(spec.origin).parent / "models").glob("*.py")  # its subfolders hold detection and others
    return {name: file for file in files for name in registered.findall(file.read_text(encoding="utf-8"))}


def find(name: str) -> str:
    """The model that the user means by `name`; raises UsageError with the known names where there is none."""
    return registry.find(name, names(), "model", more={"torchvision": torchvision_names()})


def task_of(name: str) -> str:
    """The class in engine/ that trains and judges the model."""
    return entries()[name].constants["task"] if name in entries() else "Classify"


def describe(name: str) -> str:
    """What the model is: the docstring of a model of this folder, what torchvision says of one of its own."""
    name = find(name)
    if name in entries():
        return entries()[name].docstring
    tree = ast.parse(_torchvision_files()[name].read_text(encoding="utf-8"))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    text = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
    text = re.sub(r"`([^`<]+?) ?<([^>]+)>`_+", r"\1 (\2)", text)  # a link of their markup: title (address)
    from models import torchvision_models

    return f"{text}\n\n{torchvision_models.facts(name)}"


def build(
    name: str,
    num_classes: int,
    image_size: int = 224,
    pretrained: bool = False,
    weights: str | Path | None = None,
    channels: int = 3,
    **sizes: int,
) -> "nn.Module":
    """A net; a classifier maps (N, C, image_size, image_size) to logits (N, num_classes), C its `in_channels`.

    Args:
        name: a class of this folder or a classifier of torchvision.
        num_classes: width of the new head.
        image_size: height and width in pixels, for nets that are built for one size.
        pretrained: start from torchvision's ImageNet weights, all but a head of another class count.
        weights: a local file with such weights (or a checkpoint of ours), in place of torchvision's cache.
        channels: of the images, for nets that are built for a number of them; the others take 3.
        sizes: further arguments, which the model must take.

    Raises:
        UsageError: no such model, size or weights, or weights that do not fit.
    """
    name = find(name)
    if name in entries():
        model = __getattr__(name)
        _check_sizes(name, sizes, inspect.signature(model).parameters)
        net = _fitted(model, num_classes=num_classes, in_channels=channels, image_size=image_size, **sizes)
    else:
        from models import torchvision_models

        _check_sizes(name, sizes, ())
        net = torchvision_models.build(name, num_classes, image_size)
    if weights or pretrained:
        from models import pretrained as source

        content, path = source.read(weights) if weights else source.fetch(net)
        source.load(net, content, path)
    return net


def _check_sizes(name: str, sizes: Iterable[str], taken: Container[str]) -> None:
    for size in sizes:
        if size not in taken:
            raise UsageError(f"--{size} has no effect on {name}: leave it out")


def _fitted(model: type, **arguments: int) -> "nn.Module":
    """An instance, made with those of the arguments that its class takes."""
    taken = inspect.signature(model).parameters
    return model(**{name: value for name, value in arguments.items() if name in taken})


def check_input(
    name: str, num_classes: int, image_size: int, batch_size: int = 2, channels: int = 3, shown: int | None = None
) -> None:
    """Raises UsageError where the model cannot be trained on such batches; builds no weights (0.1 s).

    Args:
        shown: the side of the images that the net for `image_size` sees at first; None: the same.
    """
    from models import input_size

    input_size.check(find(name), num_classes, image_size, batch_size, channels, shown or image_size)


def __getattr__(name: str):
    """`models.ResNet34` (PEP 562): imports the class's file on first use."""
    if name.startswith("_") or name not in entries():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(entries()[name].module), name)


def __dir__() -> list[str]:
    return [*__all__, *names()]
