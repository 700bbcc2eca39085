"""The head of a net: the weights that have a row for each class, and what becomes of them where the classes are others.

As many classes do not make the same ones: a head that was trained on cats and dogs says nothing of ants and bees.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models import building
from utils.errors import UsageError
from utils.text import few


def entries(net: nn.Module, name: str, image_size: int, channels: int, arguments: dict[str, Any]) -> list[str]:
    """The entries of the net's state dict that would have one row more with one class more.

    None are known of a net that was given as an instance, or whose class refuses another number of classes.
    """
    count: int = net.num_classes  # type: ignore[assignment]
    own = net.state_dict()
    try:
        wider = building.second_state(name, count + 1, image_size, channels, arguments)
    except Exception:  # whatever its constructor raises
        return []
    return [
        key
        for key, value in own.items()
        if value.shape[:1] == (count,) and key in wider and wider[key].shape == (count + 1, *value.shape[1:])
    ]


def adapted(
    state: dict[str, Tensor],
    find_head: Callable[[], list[str]],
    theirs: Sequence[str] | None,
    ours: Sequence[str] | None,
    net: nn.Module,
    path: Path,
    renew: bool,
) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict for these classes, and those entries of its head that were left out: they start afresh.

    The same classes in another order put the rows of the head in that order, which is printed.

    Args:
        find_head: gives the entries of the head.
        theirs: the classes that the weights were trained on; None: not known, and nothing is done.
        ours: the classes of now; None: not known.
        path: of the weights.
        renew: whether the head may start afresh.

    Raises:
        UsageError: the classes are others and the head may not start afresh, or which weights it has is not known.
    """
    if not theirs or not ours or list(theirs) == list(ours):
        return state, []
    head, reordered = find_head(), sorted(theirs) == sorted(ours)
    if not head and getattr(net, "task", "Classify") != "Classify":  # such as a GAN, which knows of no classes
        return state, []
    differ = f"{path} was trained on the classes {few(theirs)}, and these are {few(ours)}"
    if not reordered and not renew:
        raise UsageError(f"{differ}: add --pretrained, to start with a new head")
    if not head:
        raise UsageError(
            f"{differ}; which weights of {type(net).__name__} belong to its classes cannot be told: to keep them, "
            "start from a file of its state_dict() alone"
        )
    if not reordered:
        return (state, []) if len(theirs) != len(ours) else (_copy(state, {}, without=head), head)
    order = [theirs.index(name) for name in ours]
    print(f"{path}: put the rows of {' and '.join(head)} in the order of these classes: {few(ours)}")
    return _copy(state, {key: state[key][order] for key in head if len(state.get(key, ())) == len(order)}), []


def _copy(state: dict[str, Tensor], changed: dict[str, Tensor], without: Sequence[str] = ()) -> dict[str, Tensor]:
    copied = OrderedDict((key, changed.get(key, value)) for key, value in state.items() if key not in without)
    if hasattr(state, "_metadata"):
        copied._metadata = state._metadata  # type: ignore[attr-defined]
    return copied
