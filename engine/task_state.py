"""Whether what a checkpoint holds of a task's state can be loaded: of the shape that the state of now has."""

from typing import Any

import torch

from utils import state_dicts
from utils.checkpoint_schema import described, is_number
from utils.errors import UsageError


def check_like(state: Any, like: Any, place: str, optional: tuple[str, ...] = ()) -> None:
    """Raises UsageError for the first value in `state` that cannot stand where `like` has its own.

    Dicts need the keys of `like`, may have others, and may lack the `optional` ones; all values of a list are like the
    first one of `like`; whole numbers are counts; another number may be a tensor, and the other way around.
    """
    if isinstance(like, dict) and isinstance(state, dict):
        for key, own in like.items():
            if key in state:
                check_like(state[key], own, f"{place}.{key}", optional)
            elif key not in optional:
                raise UsageError(f"it lacks {place}.{key}")
    elif isinstance(like, (list, tuple)) and isinstance(state, (list, tuple)):
        for number, value in enumerate(state if like else ()):
            check_like(value, like[0], f"{place}.{number}", optional)
    elif not _alike(state, like):
        raise UsageError(f"{place} is {described(state)}, expected {_expected(like)}")


def _alike(state: Any, like: Any) -> bool:
    if isinstance(state, torch.Tensor) and isinstance(like, torch.Tensor):
        return state.shape == like.shape and state.is_floating_point() == like.is_floating_point()
    if type(like) is int:
        return type(state) is int and state >= 0
    if is_number(like) or (isinstance(like, torch.Tensor) and like.ndim == 0):
        return is_number(state) or (isinstance(state, torch.Tensor) and state.ndim == 0)
    return like is None or type(state) is type(like)


def _expected(like: Any) -> str:
    if isinstance(like, torch.Tensor):
        return described(like)
    return "an int from 0 on" if type(like) is int else f"a {type(like).__name__}"


def check_net(state: Any, net: torch.nn.Module, place: str) -> None:
    """Raises UsageError where a state dict does not fit `net`, in names, shapes, types or values."""
    own = net.state_dict()
    check_like(state, own, place)
    if unknown := [name for name in state if name not in own]:
        raise UsageError(f"{place} has {unknown[0]}, which the net has not")
    state_dicts.check_tensors(state, place, of="")
    state_dicts.check_values(state, own, place)
