"""What each layer does in a step: `--watch`. On steps that are not watched nothing is hooked, and nothing is slower.

The spread of outputs and gradients by layer is what Glorot and Bengio 2010 ("Understanding the difficulty of training
deep feedforward neural networks") look at, the size of the updates against that of the weights what Karpathy's course
does (cs231n.github.io/neural-networks-3, "Ratio of weights:updates").
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from engine.symptoms import Symptoms

RECTIFIERS = ("relu", "relu_", "relu6", "threshold", "threshold_")  # whose output is 0 on one side
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)  # layers whose units are the last dimension
COLUMNS = ("activation", "gradient", "update", "dead")


@dataclass
class Layer:
    """A module that has weights of its own, and what was seen of it in one step; all values are tensors on the device.

    Attributes:
        means, variances: of its output, one for each call (micro-batches, both halves of a GAN's step).
        alive: (units,) bool: whether a unit's output was above 0 anywhere, after the rectifier that follows the layer.
        before: its weights before the optimizer's step.
    """

    module: nn.Module
    means: list[torch.Tensor] = field(default_factory=list)
    variances: list[torch.Tensor] = field(default_factory=list)
    alive: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    before: dict[nn.Parameter, torch.Tensor] = field(default_factory=dict)

    def see_output(self, output: torch.Tensor) -> None:
        values = output.detach().float()
        mean = values.mean()
        self.means.append(mean)
        self.variances.append(torch.linalg.vector_norm(values - mean).square() / values.numel())  # torch.var is slow

    def see_rectified(self, output: torch.Tensor) -> None:
        unit = -1 if isinstance(self.module, CHANNELS_LAST) or output.ndim < 2 else 1
        others = [dim for dim in range(output.ndim) if dim != unit % output.ndim]
        alive = (output.detach().amax(dim=others) if others else output.detach()) > 0
        if self.alive is None:
            self.alive = alive
        elif self.alive.shape == alive.shape:  # else another rectifier, of several layers together
            self.alive = self.alive | alive

    def see_step(self, stepped: set[int]) -> None:
        """Called before an optimizer steps; `stepped`: the ids of its weights."""
        own = [(p, p.grad) for p in self.module.parameters(recurse=False) if id(p) in stepped]
        new = {p: g for p, g in own if g is not None and g.layout is torch.strided and p not in self.before}
        if new:
            gradients, count = [g.float() for g in new.values()], sum(p.numel() for p in new)
            mean = torch.stack([g.sum() for g in gradients]).sum() / count
            squares = torch.stack([torch.linalg.vector_norm(g).square() for g in gradients]).sum() / count
            self.gradient = (squares - mean.square()).clamp(min=0).sqrt()
            self.before |= {p: p.detach().clone() for p in new}

    def values(self) -> list[torch.Tensor]:
        """The numbers of COLUMNS as 0-dimensional tensors, NaN where there is none."""
        own = list(self.module.parameters(recurse=False))
        none = torch.tensor(torch.nan, device=own[0].device)
        spread = ratio = dead = none
        if self.means:
            spread = (torch.stack(self.variances).mean() + torch.stack(self.means).var(correction=0)).sqrt()
        if self.before:
            moved = torch.stack([(p.detach() - old).float().norm() for p, old in self.before.items()]).norm()
            ratio = moved / torch.stack([old.float().norm() for old in self.before.values()]).norm()
        elif not any(p.requires_grad for p in own):
            ratio = torch.zeros_like(none)
        if self.alive is not None:
            dead = 1 - self.alive.float().mean()
        return [spread, none if self.gradient is None else self.gradient, ratio, dead]


class Rectified(TorchFunctionMode):
    """Hands on the output of each rectifier, be it a module or a function such as `F.relu(x)` or `x.relu()`."""

    def __init__(self, see: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in RECTIFIERS and isinstance(output, torch.Tensor):
            self.see(output)
        return output


def first_tensor(output: Any) -> torch.Tensor | None:
    """The first floating tensor in what a layer returns: some return tuples, lists or dicts."""
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


class Look:
    """One watched step: a context around `task.train_step`. Hooks only read, so the numbers of the step stay the same.

    Outputs are looked at until the first optimizer steps: LBFGS calls the net again, with other weights.
    """

    def __init__(self, net: nn.Module) -> None:
        self.layers = {name: Layer(module) for name, module in named_layers(net).items()}
        self.last: Layer | None = None
        self.stepping = False
        self.stack, self.forward = ExitStack(), ExitStack()

    def __enter__(self) -> "Look":
        for layer in self.layers.values():
            handle = layer.module.register_forward_hook(partial(self._called, layer))
            self.stack.callback(handle.remove)
        self.stack.callback(register_optimizer_step_pre_hook(self._steps).remove)
        self.forward.enter_context(Rectified(self._rectified))
        return self

    def __exit__(self, *exception: Any) -> None:
        self.forward.close()
        self.stack.close()

    @torch.no_grad()
    def _called(self, layer: Layer, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and not self.stepping:
            self.last = layer
            layer.see_output(tensor)

    @torch.no_grad()
    def _rectified(self, output: torch.Tensor) -> None:
        if self.last and not self.stepping:
            self.last.see_rectified(output)

    @torch.no_grad()
    def _steps(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.stepping = True
        self.forward.close()
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for layer in self.layers.values():
            layer.see_step(stepped)

    @torch.no_grad()
    def values(self) -> dict[str, list]:
        """An entry of the record: {"layers": names} and for each of COLUMNS a number or None for each layer."""
        used = {name: layer for name, layer in self.layers.items() if layer.means or layer.before}
        rows = torch.stack([torch.stack(layer.values()) for layer in used.values()]).tolist() if used else []
        return {"layers": list(used)} | {name: [_short(row[i]) for row in rows] for i, name in enumerate(COLUMNS)}


def _short(number: float) -> float | None:
    """Four digits are enough for a record that is to stay small."""
    return float(f"{number:.4g}") if math.isfinite(number) else None


def named_layers(net: nn.Module) -> dict[str, nn.Module]:
    """The modules that have weights of their own, by name."""
    modules = {name or type(net).__name__: module for name, module in net.named_modules()}
    return {name: module for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))}


class Watch:
    """Looks at the first step and at every `every`-th after it; with 0 at none.

    The entries lie in `pending` as (step, values) until they are in the record.
    """

    def __init__(self, net: nn.Module, every: int) -> None:
        self.net, self.every = net, every
        self.pending: list[tuple[int, dict[str, list]]] = []
        self.symptoms, self.warned = Symptoms(), False

    @contextmanager
    def step(self, number: int, images: int, rate: float) -> Iterator[None]:
        """Around the training step of this number, from 1 on, with so many images and this learning rate."""
        if not self.every or (number - 1) % self.every:
            yield
            return
        with Look(self.net) as look:
            yield
        values = look.values()
        self.pending.append((number, values))
        alive = {name: layer.alive for name, layer in look.layers.items()}
        self.symptoms.add(number, images, rate, values, alive)

    def diagnose(self) -> str | None:
        """After an epoch: a line about what is clearly sick, once."""
        verdict = None if self.warned else self.symptoms.verdict()
        self.warned = self.warned or bool(verdict)
        return verdict
