"""What each layer of a net gives and costs, measured by one image without data."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


@dataclass
class Layer:
    """A module of a net, or several alike in a row.

    Attributes:
        shape: of its output for one image, without N; () where it gives no tensor, or is never called.
        parameters, multiply_adds: with those of the modules in it; of all `count` together.
        children: the modules in it, without those that neither cost anything nor change the shape.
    """

    name: str
    kind: str
    shape: Shape
    parameters: int
    multiply_adds: int
    children: list["Layer"] = field(default_factory=list)
    count: int = 1

    @property
    def look(self) -> tuple:
        """What is equal of two layers that are alike."""
        inside = tuple((child.name, child.count, child.look) for child in self.children)
        return self.kind, self.shape, self.parameters // self.count, self.multiply_adds // self.count, inside


def layers(net: nn.Module, forward: Callable[[], object]) -> Layer:
    """The tree of a net's layers. Multiply-adds are those of matrix products and convolutions, half of torch's FLOPs
    (torch.utils.flop_counter); attention counts as the products that it is made of.

    Args:
        forward: sends one image through the net. With gradients, as torch's fused inference layers are not counted.
    """
    counter, flops = FlopCounterMode(display=False), Counter[nn.Module]()
    shapes: dict[nn.Module, Shape] = {}
    idle: set[nn.Module] = set()  # their output is like their input
    starts: list[int] = []

    def before(module: nn.Module, args: Any) -> None:
        starts.append(counter.get_total_flops())

    def after(module: nn.Module, args: Any, output: Any) -> None:
        flops[module] += counter.get_total_flops() - starts.pop()
        shapes[module] = _shape(output)
        (idle.add if args and _shape(args[0]) == shapes[module] else idle.discard)(module)

    hooks = [h for m in net.modules() for h in (m.register_forward_pre_hook(before), m.register_forward_hook(after))]
    with counter, sdpa_kernel(SDPBackend.MATH):  # one that is fused may be unknown to the counter
        forward()
    for hook in hooks:
        hook.remove()

    def tree(name: str, module: nn.Module) -> Layer:
        below = [(tree(key, child), child) for key, child in module.named_children()]
        shown = [layer for layer, child in below if layer.parameters or layer.multiply_adds or child not in idle]
        parameters = sum(p.numel() for p in module.parameters())
        return Layer(name, _kind(module), shapes.get(module, ()), parameters, flops[module] // 2, merged(shown))

    root = tree("", net)
    root.multiply_adds = counter.get_total_flops() // 2  # of a GAN both nets, called one by one
    return root


def merged(found: list[Layer]) -> list[Layer]:
    """The layers, those alike in a row as one."""
    rows: list[Layer] = []
    for layer in found:
        if rows and rows[-1].look == layer.look:
            last = rows[-1]
            last.count += 1
            last.parameters += layer.parameters
            last.multiply_adds += layer.multiply_adds
        else:
            rows.append(layer)
    return rows


def _shape(value: Any) -> Shape:
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else ()


def _kind(module: nn.Module) -> str:
    return type(module).__name__
