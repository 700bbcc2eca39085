"""Models by name. Importing the package and asking for names imports neither torch nor the models.

A name is a class of this folder ("ResNet34"; a file with a class that derives from BasicModule adds one, there is no
list to edit), a classifier of torchvision ("resnet50"), one of timm ("timm/resnet50"), or code outside of the
repository ("path/to/file.py:Class", "package.module:Class"), for which any nn.Module will do. `models.ResNet34` is the
class.
"""

import ast
import importlib
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import registry
from utils.errors import UsageError, install, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parent
TIMM = "timm/"
FROM_DATA = ("num_classes", "in_channels", "image_size")  # arguments of a model that the data set decides
# the same of torchvision's and timm's, and what is asked for by options of the program
OF_LIBRARIES = (*FROM_DATA, "in_chans", "img_size", "input_size", "aux_logits", "weights", "progress", "pretrained")


@cache
def entries() -> dict[str, registry.Entry]:
    """{class name: Entry} of this folder's models."""
    return registry.scan(FOLDER, base="BasicModule")


def names() -> list[str]:
    """This folder's models."""
    return list(entries())


def torchvision_names() -> list[str]:
    """torchvision's classifiers, without importing torchvision."""
    return sorted(_functions("torchvision", r"@register_model\(\)"))


def timm_names() -> list[str]:
    """timm's models without the prefix `timm/`, without importing timm; none where it is not installed."""
    return sorted(_functions("timm", r"@register_model"))


@cache
def _functions(package: str, decorator: str) -> dict[str, Path]:
    """{name: file} of the functions that a package registers as models; empty where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return {}
    registered = re.compile(rf"^{decorator}\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    files = (Path(spec.origin).parent / "models").glob("*.py")  # torchvision's subfolders hold detection and others
    return {name: file for file in files for name in registered.findall(file.read_text(encoding="utf-8"))}


def find(name: str) -> str:
    """The model that the user means by `name`; code outside of the repository is not run.

    Raises:
        UsageError: there is none; with the nearest name.
    """
    if registry.is_external(name):
        registry.external(name, "model")
        return name
    if name.startswith(TIMM):
        return _find_timm(name)
    more = {"torchvision": torchvision_names()}
    if name.lower() not in {known.lower() for known in [*names(), *torchvision_names()]}:
        more["timm"] = [TIMM + short for short in timm_names()]  # read only where a name is not found: 0.1 s
    return registry.find(name, names(), "model", more, FOLDER)


def _find_timm(name: str) -> str:
    """timm/NAME or timm/NAME.TAG; a tag names one of a model's pretrained weights."""
    if not timm_names():
        raise UsageError(f"{name}: timm is not installed; type {install('timm')}")
    short, dot, tag = name.removeprefix(TIMM).partition(".")
    found = next((known for known in timm_names() if known.lower() == short.lower()), None)
    if found is None:
        hint = nearest(name, [TIMM + known for known in timm_names()])
        raise UsageError(f"unknown model {name!r}: timm has {len(timm_names())} others.{hint}")
    text = _functions("timm", r"@register_model")[found].read_text(encoding="utf-8")
    tags = dict.fromkeys(re.findall(rf"""["']{found}\.([\w.]+)\*?["']""", text))
    if dot and tag not in tags:
        raise UsageError(f"unknown tag of {TIMM}{found}: it has {', '.join(tags) or 'none'}.{nearest(tag, tags)}")
    return f"{TIMM}{found}{dot}{tag}"


def entry(name: str) -> registry.Entry | None:
    """What is known of a model's class by reading its file; None for those of torchvision and timm."""
    return registry.external(name, "model") if registry.is_external(name) else entries().get(name)


def constants(name: str) -> dict[str, Any]:
    """The literal attributes of the model's class (task, dataset, ...), with those that it inherits from ours."""
    found = entry(name)
    if found is None:
        return {}
    inherited = [entries()[base].constants for base in found.bases if base in entries()]
    return {k: v for values in reversed(inherited) for k, v in values.items()} | found.constants


def parameters(name: str) -> tuple[str, ...] | None:
    """The arguments of the model's class; None where they are not known without importing it, or are any."""
    found = entry(name)
    return None if found is None else found.parameters


def task_of(name: str) -> str:
    """The name of the task that trains and evaluates the model."""
    return constants(name).get("task", "Classify")


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raises UsageError where the model's class takes no such argument, as far as its file tells."""
    taken, others = parameters(name), OF_LIBRARIES if entry(name) is None else FROM_DATA
    for argument in arguments:
        if argument in others:
            raise UsageError(f"--model-args: {argument} follows from the data set and other options: leave it out")
        if taken is not None and argument not in taken:
            own = [other for other in taken if other not in FROM_DATA]
            takes = f"it takes {', '.join(own)}" if own else "it takes no arguments of its own"
            raise UsageError(f"--model-args: {name} takes no {argument!r}: {takes}.{nearest(argument, own)}")


def describe(name: str) -> str:
    """What the model is: its docstring, or what torchvision or timm say of one of theirs."""
    name = find(name)
    if name.startswith(TIMM):
        from models import timm_models

        return timm_models.facts(name)
    if found := entry(name):
        own = [argument for argument in found.parameters or () if argument not in FROM_DATA]
        return found.docstring + (f"\n\nArguments (--model-args): {', '.join(own)}" if own else "")
    tree = ast.parse(_functions("torchvision", r"@register_model\(\)")[name].read_text(encoding="utf-8"))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    text = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
    text = re.sub(r"`([^`<]+?) ?<([^>]+)>`_+", r"\1 (\2)", text)  # a link of their markup: title (address)
    from models import torchvision_models

    return f"{text}\n\n{torchvision_models.facts(name)}"


def build(
    name: str,
    num_classes: int,
    image_size: int = 224,
    channels: int = 3,
    arguments: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    classes: list[str] | None = None,
) -> "nn.Module":
    """A net. Its attributes `num_classes` and `in_channels` are set where its class does not set them.

    A classifier maps (N, C, image_size, image_size) to logits (N, num_classes), C its `in_channels`.

    Args:
        name: any name that `find` takes.
        num_classes: width of the head.
        image_size: height and width in pixels, for nets that are built for one size.
        channels: of the images, for nets that are built for a number of them; the others take 3.
        arguments: further arguments of the model's class.
        pretrained: start from published weights (ImageNet), all but a head of another class count.
        weights: a local file with such weights (or a checkpoint of ours), in place of the cache.
        classes: their names: a checkpoint of ours that was trained on others keeps its head only where they are known
            to be the same ones, in their order.

    Raises:
        UsageError: no such model, argument, size or weights, or weights that do not fit.
    """
    from models import building

    arguments = dict(arguments or {})
    return building.build(find(name), num_classes, image_size, channels, arguments, pretrained, weights, classes)


def check_input(
    name: str,
    num_classes: int,
    image_size: int,
    batch_size: int = 2,
    channels: int = 3,
    shown: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Raises UsageError where the model cannot be trained on such batches; builds no weights (0.1 s).

    Args:
        shown: the side of the images that the net for `image_size` sees at first; None: the same.
    """
    from models import input_size

    input_size.check(
        find(name), num_classes, image_size, batch_size, channels, shown or image_size, dict(arguments or {})
    )


def check_rebuild(
    net: "nn.Module",
    name: str,
    num_classes: int,
    image_size: int,
    channels: int = 3,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Raises UsageError where the weights of `net` do not fit a second net, built from what a checkpoint says of it."""
    from models import building

    building.check_rebuild(net, name, num_classes, image_size, channels, dict(arguments or {}))


def preprocessing(name: str) -> dict[str, Any]:
    """What the images of a model must go through: image_size, mean, std, interpolation, crop_pct; {} if any will do."""
    if not name.startswith(TIMM):
        return constants(name).get("preprocessing", {})
    from models import timm_models

    return timm_models.preprocessing(name)


def count_classes(
    name: str,
    state: "dict[str, Tensor]",
    image_size: int,
    channels: int = 3,
    arguments: Mapping[str, Any] | None = None,
) -> int:
    """The number of classes that a state dict of the model was trained for, by the shape of its head."""
    from models import building

    return building.count_classes(name, state, image_size, channels, dict(arguments or {}))


def __getattr__(name: str) -> Any:
    """`models.ResNet34` (PEP 562): imports the class's file on first use."""
    if name.startswith("_") or name not in entries():
        left_out = "" if name.startswith("_") else registry.left_out(FOLDER)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{left_out}")
    return getattr(importlib.import_module(entries()[name].module), name)


def __dir__() -> list[str]:
    return [*globals(), *names()]
