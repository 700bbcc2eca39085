"""Opens data sets from outside of the repository: `file.py:Class`, `package.module:Class`, or given in
Python.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import torchvision_sets
from data.image_data import ImageData
from data.torch_dataset import wrap
from data.torchvision_table import TABLE
from utils import registry
from utils.errors import UsageError

VAL_SPLITS = ("val", "valid", "test")  # tried in this order for an argument `split`
REFUSALS = (ValueError, KeyError, AssertionError, OSError)  # how a class says that it has no such split


def open_external(name: str, root: str | Path | None) -> ImageData:
    """The data set that the external `name` means.

    A class or function is called with those of the arguments root, train, split, download=False and
    transform=None that it takes. `train` (True, False) or `split` ("train"; "val", else "valid" or "test")
    give the training and the validation part; a set without them is one part. A class derived from
    `ImageData` gets only `root`.

    Raises:
        UsageError: it needs other arguments, or gives no data set.
    """
    target: Any = registry.load(name, "data set")
    short = name.rpartition(":")[2]
    if inspect.isclass(target) and issubclass(target, ImageData):
        return target(root)
    if getattr(target, "__module__", "").startswith("torchvision.datasets") and short in TABLE:
        return getattr(torchvision_sets, short)(root)
    if not inspect.isroutine(target) and not inspect.isclass(target):
        if root is not None:
            raise UsageError(f"{short} is a data set already: leave out the folder {root} (--train-data-root)")
        return as_image_data(target, None, root, short)
    make: Callable[..., Any] = target
    parameters = inspect.signature(make).parameters
    arguments = _arguments(parameters, root, name)
    if "train" in parameters:
        parts = make(**arguments, train=True), make(**arguments, train=False)
    elif "split" in parameters:
        parts = make(**arguments, split="train"), _val_split(make, arguments, name)
    else:
        parts = make(**arguments), None
    return as_image_data(*parts, root, short)


def as_image_data(train: Any, val: Any, root: str | Path | None, name: str) -> ImageData:
    """An `ImageData` as it is, one or two torch `Dataset`s wrapped.

    Raises:
        UsageError: anything else.
    """
    if isinstance(train, ImageData):
        return train
    for part in (train, val):
        if part is not None and not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
            raise UsageError(
                f"{name} gives a {type(part).__name__}, which is no data set: expected an ImageData, or a "
                "torch Dataset with __len__ and __getitem__ that gives (image, label)"
            )
    return wrap(train, val, root or ".", name)


def _arguments(parameters: Any, root: str | Path | None, name: str) -> dict[str, Any]:
    values: dict[str, Any] = {"download": False, "transform": None}
    values |= {} if root is None else {"root": root}
    arguments = {key: value for key, value in values.items() if key in parameters}
    known = arguments.keys() | {"train", "split"}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [k for k, p in parameters.items() if p.default is p.empty and p.kind not in kinds and k not in known]
    if "root" in missing:
        raise UsageError(f"{name} needs a folder: give it as --train-data-root=DIR")
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(missing)}, which cannot be given: write a function without these "
            "arguments that returns the data set"
        )
    return arguments


def _val_split(target: Callable[..., Any], arguments: dict[str, Any], name: str) -> Any:
    """The first of VAL_SPLITS that the set has."""
    errors: list[Exception] = []
    for split in VAL_SPLITS:
        try:
            return target(**arguments, split=split)
        except REFUSALS as e:
            errors.append(e)
    reason = str(errors[0]).strip().splitlines()[0] if str(errors[0]).strip() else type(errors[0]).__name__
    raise UsageError(
        f"{name} takes split, but has none of {', '.join(VAL_SPLITS)} ({reason}): write a function "
        "without arguments that returns one data set"
    ) from errors[0]
