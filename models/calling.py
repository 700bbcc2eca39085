"""Calling the constructor of a model with the arguments that it takes, and what is said of those that it does not."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
import torchvision.models  # noqa: F401 - its import makes tensors: not to happen first inside MetaWeights
from torch import nn
from torch.overrides import TorchFunctionMode

import models
from utils.errors import UsageError, nearest
from utils.registry import LISTED

Arguments = dict[str, Any]
# what a constructor raises where a value makes no sense
REFUSALS = (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError, LookupError)


class MetaWeights(TorchFunctionMode):
    """Weights and buffers made inside are on the meta device.

    Inside `with torch.device("meta")` all tensors would be; but RegNet computes its widths with one.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def call(name: str, target: Callable[..., Any], facts: Arguments, arguments: Arguments) -> Any:
    """Calls a class or function with those of the facts that it takes, and the arguments.

    Raises:
        UsageError: an argument that it needs is missing, or it refuses one.
    """
    given = {key: value for key, value in facts.items() if key in taken(target)} | arguments
    try:
        inspect.signature(target).bind(**given)
    except TypeError as e:
        raise UsageError(f'{name}: {e}; give its arguments as --model-args="NAME=VALUE ..."') from e
    try:
        return target(**given)
    except REFUSALS as e:
        if not arguments:
            raise
        raise refused(name, arguments, e) from e


def taken(target: Callable[..., Any]) -> set[str]:
    """The arguments of a class or function; a class whose constructor takes **kwargs hands them on to its bases."""
    classes = target.__mro__ if inspect.isclass(target) else ()
    names: set[str] = set()
    for constructor in [vars(c)["__init__"] for c in classes if "__init__" in vars(c)] or [target]:
        parameters = inspect.signature(constructor).parameters
        names |= parameters.keys()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def refused(name: str, arguments: Arguments, e: Exception, plain: Callable[[], nn.Module] | None = None) -> UsageError:
    """The error for arguments that a model's constructor does not take; `plain` builds the model without them."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(e))
    if unknown and unknown[1] in arguments and plain:
        with MetaWeights():
            net = plain()
        parameters = inspect.signature(type(net)).parameters.values()
        own = [p.name for p in parameters if p.default is not p.empty and p.name not in models.OF_LIBRARIES]
        listed = ", ".join(own[:LISTED]) + (", ..." if len(own) > LISTED else "")
        return UsageError(f"--model-args: {name} takes no {unknown[1]!r}: it takes {listed}.{nearest(unknown[1], own)}")
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return UsageError(f"--model-args: {name} refuses {given}: {' '.join(str(e).split())}")
