"""Scaling the loss, for GPUs that compute in float16 and not in bfloat16."""

import torch
from torch import nn

FIRST, GROWTH_EVERY = 2.0**16, 2000  # as torch.amp.GradScaler has them


class LossScale:
    """The factor by which the loss is multiplied before the backward pass, and the gradients are divided after it.

    Below 6e-8 a float16 is 0, and so would be many gradients (Micikevicius et al. 2017, arXiv:1710.03740). Where the
    factor makes a gradient overflow, it is halved and the step computed again: so no step is left out, as
    torch.amp.GradScaler would do. After GROWTH_EVERY steps it is doubled.
    """

    def __init__(self) -> None:
        self.factor, self.steps = FIRST, 0

    def unscale(self, net: nn.Module) -> None:
        """Divides the gradients of `net` by the factor."""
        if grads := [p.grad for p in net.parameters() if p.grad is not None]:
            torch._foreach_mul_(grads, 1 / self.factor)

    def lower(self) -> bool:
        """Halves the factor, after an overflow; returns whether there is one left to try."""
        self.factor, self.steps = self.factor / 2, 0
        return self.factor >= 1

    def count(self) -> None:
        """Called after a step whose gradients are finite."""
        self.steps += 1
        if self.steps == GROWTH_EVERY:
            self.factor, self.steps = self.factor * 2, 0

    def state_dict(self) -> dict[str, float]:
        return {"factor": self.factor, "steps": self.steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.factor, self.steps = float(state["factor"]), int(state["steps"])
