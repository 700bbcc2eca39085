"""From a model's name to a net, with data or without, and the check that it can be built again."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

import models
from models import calling
from models.calling import Arguments, MetaWeights
from utils import registry, state_dicts
from utils.errors import UsageError


def build(
    name: str,
    num_classes: int,
    image_size: int,
    channels: int,
    arguments: Arguments,
    pretrained: bool = False,
    weights: str | Path | None = None,
    classes: list[str] | None = None,
) -> nn.Module:
    """See models.build; `name` is canonical."""
    models.check_arguments(name, arguments)
    takes_channels = name.startswith(models.TIMM)
    if name.startswith(models.TIMM):
        from models import timm_models

        net = timm_models.build(name, num_classes, image_size, channels, arguments)
    elif registry.is_external(name) or name in models.entries():
        target = registry.load_callable(name, "model") if registry.is_external(name) else getattr(models, name)
        facts = {"num_classes": num_classes, "in_channels": channels, "image_size": image_size}
        net = target if isinstance(target, nn.Module) else calling.call(name, target, facts, arguments)
        takes_channels = net is not target and "in_channels" in calling.taken(target)
        if net is target and arguments:
            raise UsageError(f"--model-args: {name} is built already and takes no arguments")
    else:
        from models import torchvision_models

        net = torchvision_models.build(name, num_classes, image_size, arguments)
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} gives a {type(net).__name__}, not an nn.Module")
    set_facts(net, num_classes, channels, takes_channels)
    if any(is_lazy(tensor) for tensor in [*net.parameters(), *net.buffers()]):
        _materialize(net, image_size)
    if weights or pretrained:
        from models import heads
        from models import pretrained as source

        if name.startswith(models.TIMM):
            checkpoint, path = timm_models.pretrained(net, name, image_size, channels, arguments, weights)
        else:
            published = getattr(net, "published", None) or partial(source.fetch, net, name)
            checkpoint, path = source.read(weights) if weights else published()
        find_head = partial(heads.entries, net, name, image_size, channels, arguments)
        source.load(net, checkpoint, path, name, classes, find_head)
    return net


def set_facts(net: nn.Module, num_classes: int, channels: int, takes_channels: bool = False) -> None:
    """Sets what the program needs to know of any net: `num_classes`, and how many channels it takes, `in_channels`.

    Those are the `channels` of the images where the constructor took them, else those of the first convolution; of the
    images again where that is lazy, or there is none.
    """
    net.num_classes = num_classes  # type: ignore[assignment]
    layers = (m.in_channels for m in net.modules() if isinstance(m, _ConvNd))
    net.in_channels = channels if takes_channels else next(layers, 0) or channels  # type: ignore[assignment]


def _materialize(net: nn.Module, image_size: int) -> None:
    """Lets lazy layers (nn.LazyLinear, ...) take their shapes from one image, so that an optimizer can be made."""
    training = net.training
    with torch.no_grad():
        net.eval()(torch.zeros(1, net.in_channels, image_size, image_size))  # type: ignore[call-overload]
    net.train(training)


def on_meta(name: str, num_classes: int, image_size: int, channels: int = 3, arguments: Arguments | None = None) -> Any:
    """The net without data, in eval mode: right shapes and names, at no cost in memory and little in time."""
    if registry.given(name) and isinstance(target := registry.load(name, "model"), nn.Module):
        net = copy.deepcopy(target)
        set_facts(net, num_classes, channels)
    else:
        with MetaWeights():
            net = build(name, num_classes, image_size, channels, arguments or {})
    return net.to("meta").eval()


def check_rebuild(
    net: nn.Module, name: str, num_classes: int, image_size: int, channels: int, arguments: Arguments
) -> None:
    """See models.check_rebuild. A net that was given as an instance is not built by the program, and passes."""
    if registry.given(name) and isinstance(registry.load(name, "model"), nn.Module):
        return
    first, second = net.state_dict(), second_state(name, num_classes, image_size, channels, arguments)
    for key in [*first, *second]:
        shapes = [tuple(state[key].shape) if key in state else "absent" for state in (first, second)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"{name} could not be loaded again: built a second time, its {key} is {shapes[1]}, not {shapes[0]}. "
                "What its constructor makes must depend on its arguments alone (--model-args)"
            )


def second_state(
    name: str, num_classes: int, image_size: int, channels: int, arguments: Arguments
) -> dict[str, torch.Tensor]:
    """The state dict of a net that is built anew, without data where that can be; no random number is drawn."""
    with torch.random.fork_rng(devices=[]):
        try:
            return on_meta(name, num_classes, image_size, channels, arguments).state_dict()
        except UsageError:
            raise
        except Exception:  # its constructor computes with its weights
            return build(name, num_classes, image_size, channels, arguments).state_dict()


def count_classes(
    name: str, state: dict[str, torch.Tensor], image_size: int, channels: int, arguments: Arguments
) -> int:
    """See models.count_classes."""
    own = on_meta(name, 2, image_size, channels, arguments).state_dict()
    state, _ = state_dicts.without_prefix(state, own)
    heads = [state[key].shape[0] for key in own if key in state and state_dicts.is_head(state[key], own[key], 2)]
    return heads[0] if heads else 2
