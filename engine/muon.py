"""torch's Muon for any net: for its filters and matrices, with AdamW for all else."""

import torch
from torch import nn

from utils.errors import UsageError


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the weights of convolutions and of linear layers but the last; AdamW for the rest.

    torch's Muon takes matrices only. A bank of filters (O, I, h, w) is one, (O, I h w), seen through a view. The
    steps are scaled as in Liu et al. 2025 (arXiv:2502.16982), so that one learning rate serves both.

    Args:
        net: on its device and in its memory format: the views hold on to where the weights lie.
        options: of torch.optim.Muon (momentum, nesterov, ...).

    Raises:
        UsageError: this torch has no Muon (it came with 2.9).
    """

    def __init__(self, net: nn.Module, lr: float, weight_decay: float = 0.0, **options) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UsageError(f"--optimizer=Muon needs torch 2.9 or newer, not {torch.__version__}: use AdamW")
        learning = [p for p in net.parameters() if p.requires_grad]
        last = next((m.weight for m in reversed(list(net.modules())) if isinstance(m, nn.Linear)), None)
        self.weights = [p for p in learning if p.ndim in (2, 4) and p is not last]
        self.views = [as_matrix(p.detach()) for p in self.weights]
        taken = {id(p) for p in self.weights}
        rest = [p for p in learning if id(p) not in taken]
        scaling = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": weight_decay, **options}
        self.parts = [torch.optim.Muon(self.views, lr=lr, **scaling)] if self.views else []
        self.parts += [torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay)] if rest else []

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self) -> None:
        for weight, view in zip(self.weights, self.views, strict=True):
            view.grad = None if weight.grad is None else as_matrix(weight.grad)
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.weights:
            weight.grad = None
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, content in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(content)


def as_matrix(filters: torch.Tensor) -> torch.Tensor:
    """(O, I, h, w) -> (O, I h w), or (O, h w I) where channels lie last: a view of the same memory."""
    if filters.ndim == 2:
        return filters
    return filters.flatten(1) if filters.is_contiguous() else filters.permute(0, 2, 3, 1).flatten(1)
