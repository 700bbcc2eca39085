"""A net sees the whole batch where each of several processes holds a shard of it.

Batch normalization takes its statistics over the images of all processes, and what is drawn at random for each image
(dropout, stochastic depth, noise) is drawn for the whole batch, of which a process takes its own part. Both are done
where PyTorch's functions are called: so any net's layers do it, and their weights, names and types stay as they are.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from data.shard import Piece
from engine.batch_norm import batch_norm
from utils import world

# functions that draw for each element of their input: {name: (argument, its place) without which they draw nothing}
DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
OF_INPUT: dict[str, tuple[str, int] | None] = {
    **dict.fromkeys(DROPOUTS, ("training", 2)),
    "rrelu": ("training", 3),
    "scaled_dot_product_attention": ("dropout_p", 4),
    **dict.fromkeys(("bernoulli", "poisson", "multinomial", "gumbel_softmax")),
    **dict.fromkeys(("rand_like", "randn_like", "randint_like")),
}
DEFAULTS = dict.fromkeys(DROPOUTS, True)  # of that argument; else it is off
IN_PLACE = {"bernoulli_", "uniform_", "normal_", "random_", "exponential_", "geometric_", "log_normal_", "cauchy_"}
FACTORIES = {"rand", "randn", "randint"}


def whole_batch(piece: Piece) -> AbstractContextManager:
    """While the images of `piece` go through a net; where one process has all of them it changes nothing."""
    return nullcontext() if world.now.size == 1 else WholeBatch(piece)


class WholeBatch(TorchFunctionMode):
    """Stands between a net and PyTorch's functions: `with WholeBatch(piece): logits = net(images)`.

    An image is an entry of a tensor's first dimension, or several in a row where a net cuts images into windows.
    """

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self.piece = piece

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if func is F.batch_norm:
            return batch_norm(self.piece.counts, *args, **kwargs)
        if name in OF_INPUT:
            return self._of_input(func, args, kwargs)
        if name in IN_PLACE and args[0].dim() and len(args[0]) == len(self.piece):
            whole = self._spread(args[0])
            func(whole, *args[1:], **kwargs)
            return args[0].data.copy_(self._own(whole, len(args[0])))
        if name in FACTORIES:
            return self._factory(func, args, kwargs)
        return func(*args, **kwargs)

    def _of_input(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Draws for the images of all processes, with zeros in the place of those of the others."""
        name, count = func.__name__, len(args[0]) if args and args[0].dim() else 0
        if (switch := OF_INPUT[name]) is not None:
            word, place = switch
            drawn = args[place] if len(args) > place else kwargs.get(word, DEFAULTS.get(name, False))
        else:
            drawn = True
        if not drawn or not count or count % len(self.piece):
            return func(*args, **kwargs)

        def spread(value: Any) -> Any:
            own = isinstance(value, torch.Tensor) and value.dim() and len(value) == count
            return self._spread(value) if own else value

        output = func(*map(spread, args), **{word: spread(value) for word, value in kwargs.items()})
        return self._own(output, count)

    def _factory(self, func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        """`torch.randn(n, ...)` of the shard's n images draws for the whole batch."""
        values, size = list(args), kwargs.get("size", ())
        place = next((i for i, value in enumerate(values) if isinstance(value, (tuple, list))), None)
        if place is not None:
            size = values.pop(place)
        elif not size and func is not torch.randint:
            size, values = tuple(values), []
        if not size or size[0] != len(self.piece):
            return func(*args, **kwargs)
        return self._own(func(*values, **kwargs | {"size": (self.piece.total, *size[1:])}), len(self.piece))

    def _spread(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in its place in one of the whole batch, in the same memory format, with zeros around it."""
        times = len(tensor) // len(self.piece)
        shape, first = (self.piece.total * times, *tensor.shape[1:]), self.piece.start * times
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)  # that of the memory
        whole = tensor.detach().new_zeros([shape[dim] for dim in order])
        whole = whole.permute([order.index(dim) for dim in range(tensor.dim())])
        whole[first : first + len(tensor)] = tensor
        return whole

    def _own(self, whole: torch.Tensor, count: int) -> torch.Tensor:
        first = self.piece.start * (count // len(self.piece))
        return whole[first : first + count]
