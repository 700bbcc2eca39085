"""From a model's name to a net: calling its class with what it takes, and checking that it can be built again."""

import copy
import inspect
from pathlib import Path
from typing import Any

import torch
import torchvision.models  # noqa: F401 - its import makes tensors: not to happen first inside _MetaWeights
from torch import nn
from torch.overrides import TorchFunctionMode

import models
from utils import registry, state_dicts
from utils.errors import UsageError

Arguments = dict[str, Any]


class _MetaWeights(TorchFunctionMode):
    """Weights and buffers made inside are on the meta device.

    Inside `with torch.device("meta")` all tensors would be; but RegNet computes its widths with one.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build(
    name: str,
    num_classes: int,
    image_size: int,
    channels: int,
    arguments: Arguments,
    pretrained: bool = False,
    weights: str | Path | None = None,
) -> nn.Module:
    """See models.build; `name` is canonical."""
    facts = {"num_classes": num_classes, "in_channels": channels, "image_size": image_size}
    if name.startswith(models.TIMM):
        from models import timm_models

        net = timm_models.build(name, num_classes, image_size, channels, arguments, pretrained, weights)
        pretrained, weights = False, None
    elif registry.is_external(name) or name in models.entries():
        target = registry.load(name, "model") if registry.is_external(name) else getattr(models, name)
        net = target if isinstance(target, nn.Module) else _call(name, target, facts, arguments)
        if net is target and arguments:
            raise UsageError(f"--model-args: {name} is built already and takes no arguments")
    else:
        from models import torchvision_models

        net = torchvision_models.build(name, num_classes, image_size, arguments)
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} gives a {type(net).__name__}, not an nn.Module")
    set_facts(net, num_classes)
    if weights or pretrained:
        from models import pretrained as source

        state, path = source.read(weights) if weights else source.fetch(net, name)
        source.load(net, state, path, name)
    return net


def set_facts(net: nn.Module, num_classes: int) -> None:
    """Sets what the program needs to know of any net, where its class has not: `num_classes`, `in_channels`."""
    if getattr(net, "num_classes", None) is None:
        net.num_classes = num_classes  # type: ignore[assignment]
    if not isinstance(getattr(net, "in_channels", None), int):
        layers = (getattr(m, "in_channels", None) for m in net.modules())
        net.in_channels = next((n for n in layers if isinstance(n, int)), 3)  # type: ignore[assignment]


def _call(name: str, target: Any, facts: Arguments, arguments: Arguments) -> Any:
    """Calls a class or function with those of the facts that it takes, and the arguments."""
    signature = inspect.signature(target)
    taken = signature.parameters
    models.check_arguments(name, arguments)
    given = {k: v for k, v in facts.items() if k in taken} | arguments
    try:
        signature.bind(**given)
    except TypeError as e:
        raise UsageError(f'{name}: {e}; give its arguments as --model-args="NAME=VALUE ..."') from e
    try:
        return target(**given)
    except (TypeError, ValueError) as e:
        if not arguments:
            raise
        raise UsageError(f"{name} refuses {_words(arguments)}: {e}") from e


def _words(arguments: Arguments) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def on_meta(name: str, num_classes: int, image_size: int, channels: int = 3, arguments: Arguments | None = None) -> Any:
    """The net without data, in eval mode: right shapes and names, at no cost in memory and little in time."""
    if registry.given(name) and isinstance(target := registry.load(name, "model"), nn.Module):
        net = copy.deepcopy(target)
        set_facts(net, num_classes)
    else:
        with _MetaWeights():
            net = build(name, num_classes, image_size, channels, arguments or {})
    return net.to("meta").eval()


def check_rebuild(
    net: nn.Module, name: str, num_classes: int, image_size: int, channels: int, arguments: Arguments
) -> None:
    """See models.check_rebuild. A net that was given as an instance is not built by the program, and passes."""
    if registry.given(name) and isinstance(registry.load(name, "model"), nn.Module):
        return
    try:
        second = on_meta(name, num_classes, image_size, channels, arguments).state_dict()
    except UsageError:
        raise
    except Exception:  # its constructor computes with its weights
        with torch.random.fork_rng(devices=[]):
            second = build(name, num_classes, image_size, channels, arguments).state_dict()
    first = net.state_dict()
    for key in [*first, *second]:
        shapes = [tuple(state[key].shape) if key in state else "absent" for state in (first, second)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"{name} could not be loaded again: built a second time, its {key} is {shapes[1]}, not {shapes[0]}. "
                "What its constructor makes must depend on its arguments alone (--model-args)"
            )


def count_classes(
    name: str, state: dict[str, torch.Tensor], image_size: int, channels: int, arguments: Arguments
) -> int:
    """See models.count_classes."""
    own = on_meta(name, 2, image_size, channels, arguments).state_dict()
    state, _ = state_dicts.without_prefix(state, own)
    heads = [state[key].shape[0] for key in own if key in state and state_dicts.is_head(state[key], own[key], 2)]
    return heads[0] if heads else 2
