"""The optimizer of a training, made from the options or by the model itself."""

import inspect
import re
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from config import Config
from engine.device import Device
from engine.muon import Muon
from engine.task_state import check_like
from models.basic_module import BasicModule
from utils import registry
from utils.errors import UsageError, nearest

OWN_MOMENTUM = {"SGD": 0.9, "Muon": 0.9}  # where the options leave it open; else the optimizer's own
# what an optimizer raises on a state that is not its own
STATE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, RuntimeError)


def make_optimizer(net: nn.Module, opt: Config, device: Device) -> torch.optim.Optimizer:
    """The optimizer that the model's own `get_optimizer` makes (book, chapter 6), else `opt.optimizer`.

    Raises:
        UsageError: the optimizer refuses its options, or flags are typed that `get_optimizer` does not read.
    """
    own = getattr(type(net), "get_optimizer", None)
    if own is not None and own is not BasicModule.get_optimizer:
        for name in ("optimizer", "momentum", "nesterov"):
            if opt.typed(name):
                raise UsageError(f"--{name} has no effect on {opt.model}: its get_optimizer makes its own optimizer")
        return _checked(net.get_optimizer(opt.lr, opt.weight_decay), f"get_optimizer of {opt.model}")  # type: ignore[operator]
    make = Muon if opt.optimizer == "Muon" else optimizer_class(opt.optimizer)
    options = _options(opt, set(inspect.signature(make).parameters), device)
    try:
        made = Muon.for_net(net, **options) if make is Muon else make(_parts(net, opt), **options)
    except (TypeError, ValueError) as e:
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        raise UsageError(f"--optimizer={opt.optimizer} refuses its options ({given}): {e}") from e
    return _checked(made, f"--optimizer={opt.optimizer}")


def _parts(net: nn.Module, opt: Config) -> Any:
    """The weights; with --backbone-lr in two groups, of which the second learns more slowly: the head, and the rest."""
    if opt.backbone_lr in (0, 1):
        return net.parameters()
    head = list(linear_head(net, "--backbone-lr").parameters())
    of_head = {id(p) for p in head}
    rest = [p for p in net.parameters() if id(p) not in of_head]
    return [{"params": head}, {"params": rest, "lr": opt.lr * opt.backbone_lr}]


def linear_head(net: nn.Module, flag: str) -> nn.Linear:
    """The last linear layer, which gives the classes.

    Raises:
        UsageError: there is none, or it is no head: the flag cannot be used.
    """
    head = next((m for m in reversed(list(net.modules())) if isinstance(m, nn.Linear)), None)
    if head is None or head.out_features != net.num_classes:
        raise UsageError(f"{flag} needs a net that ends in a linear layer, which this one does not: leave it out")
    return head


def _checked(made: Any, source: str) -> torch.optim.Optimizer:
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(f"{source} gives a {type(made).__name__}, not a torch.optim.Optimizer")
    return made


def optimizer_class(name: str) -> Any:
    return registry.load_callable(name, "optimizer") if registry.is_external(name) else getattr(torch.optim, name)


def _options(opt: Config, taken: set[str], device: Device) -> dict[str, Any]:
    """Those of the options that the optimizer takes."""
    values: dict[str, Any] = {"lr": opt.lr, "weight_decay": opt.weight_decay}
    momentum = OWN_MOMENTUM.get(opt.optimizer) if opt.momentum is None else opt.momentum
    if momentum is not None:
        values |= {"momentum": momentum, "nesterov": momentum > 0 if opt.nesterov is None else opt.nesterov}
    values["hyperball"] = opt.hyperball
    if device.device.type in ("cpu", "cuda"):
        values["fused"] = True  # one pass over the weights, not several
    return {name: value for name, value in values.items() if name in taken}


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step evaluates the loss several times, as that of LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Any, saved: tuple[str, ...] = (), place: str = "task.optimizer"
) -> None:
    """Loads an optimizer's state; what options set stays as they have it, all but the `saved` ones.

    Args:
        place: where in the checkpoint the state stands.

    Raises:
        UsageError: it is not the state of such an optimizer with such weights.
    """
    chosen = [{k: v for k, v in g.items() if k not in ("params", *saved)} for g in optimizer.param_groups]
    like = _state_after_a_step(optimizer)
    try:
        optimizer.load_state_dict(state)
    except STATE_ERRORS as e:
        raise UsageError(f"{place} does not fit {type(optimizer).__name__}: {' '.join(str(e).split())}") from e
    loaded = optimizer.state_dict()
    check_like(loaded["param_groups"], [dict.fromkeys(saved, 0.0)], f"{place}.param_groups")
    for index, values in loaded["state"].items():  # which lacks the weights that have had no gradient yet
        check_like(values, like.get(index, {}), f"{place}.state.{index}")
    for group, options in zip(optimizer.param_groups, chosen, strict=True):
        group.update(options)


def _state_after_a_step(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """What the state of each weight is like once an optimizer of torch's, or ours, has stepped; {} for others.

    It steps with gradients and rates of 0, so that the weights stay.
    """
    if type(optimizer).__module__.partition(".")[0] not in ("torch", "engine"):
        return {}
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step(lambda: 0.0)
    optimizer.zero_grad(set_to_none=True)
    like = tree_map(lambda v: v.to("meta") if isinstance(v, torch.Tensor) else v, optimizer.state_dict()["state"])
    optimizer.state.clear()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return like


def freeze_backbone(net: nn.Module) -> list[nn.Module]:
    """Stops all weights but the head's from learning; returns what `freeze` does."""
    head = {id(p) for p in linear_head(net, "--backbone-lr=0").parameters()}
    for p in net.parameters():
        p.requires_grad = id(p) in head
    return _still(net)


def _still(net: nn.Module) -> list[nn.Module]:
    """The modules of which no weight learns."""
    modules = [m for m in net.modules() if list(m.parameters())]
    return [m for m in modules if not any(p.requires_grad for p in m.parameters())]


def freeze(net: nn.Module, pattern: str) -> list[nn.Module]:
    """Stops the weights whose names match `pattern`, a regular expression, from learning.

    Returns:
        The modules of which no weight learns: they stay in evaluation mode, so that BatchNorm's statistics keep still.

    Raises:
        UsageError: the pattern is no regular expression, or matches none or all of the weights.
    """
    try:
        regex = re.compile(pattern)
    except re.error as e:
        raise UsageError(f"--freeze={pattern} is not a regular expression: {e}") from e
    names = [name for name, _ in net.named_parameters()]
    frozen = [name for name in names if regex.search(name)]
    if not frozen or len(frozen) == len(names):
        parts = list(dict.fromkeys(name.split(".")[0] for name in names))
        what = "all weights match: none would learn." if frozen else f"no weight matches.{nearest(pattern, parts)}"
        raise UsageError(f"--freeze={pattern}: {what} The weights are those of {', '.join(parts)}")
    for name, p in net.named_parameters():
        if name in frozen:
            p.requires_grad = False
    return _still(net)
