"""torch's Muon for any net: for its filters and matrices, with AdamW for all else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

from utils.errors import UsageError

TINY = 1e-12
OF_REST = 0.3  # on a hyperball: AdamW's learning rate as a part of the matrices'


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for weights of 2 and 4 dimensions, AdamW for the rest.

    A bank of filters (O, I, h, w) is stepped as the matrix (O, I h w). Steps are scaled as in Liu et al. 2025
    (arXiv:2502.16982), so that one learning rate serves both rules.

    Args:
        params: tensors or groups; a group with `muon=False` is left to AdamW altogether.
        weight_decay: decoupled from the gradient, in both rules.
        momentum, nesterov: of Muon.
        hyperball: a step of Muon's turns a matrix by `lr` of its norm and leaves the norm as it was (Wen et al. 2026,
            arXiv:2606.16899); AdamW's rate is OF_REST of `lr`, and weight decay is for the rest alone.

    Raises:
        UsageError: this torch has no Muon (it came with 2.9).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        hyperball: bool = False,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UsageError(f"--optimizer=Muon needs torch 2.9 or newer, not {torch.__version__}: use AdamW")
        values = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        values["hyperball"] = hyperball
        super().__init__(params, values | {"muon": True, "betas": (0.9, 0.999), "eps": 1e-8})

    @classmethod
    def for_net(cls, net: nn.Module, lr: float, weight_decay: float = 0.0, **options: Any) -> "Muon":
        """For a net: its last linear layer, whose rows are classes, is left to AdamW as well."""
        learning = [p for p in net.parameters() if p.requires_grad]
        last = next((m.weight for m in reversed(list(net.modules())) if isinstance(m, nn.Linear)), None)
        matrices = [p for p in learning if p.ndim in (2, 4) and p is not last]
        taken = {id(p) for p in matrices}
        rest = [p for p in learning if id(p) not in taken]
        groups = [{"params": matrices, "muon": True}, {"params": rest, "muon": False}]
        return cls([group for group in groups if group["params"]], lr, weight_decay, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in learning if group["muon"] and p.ndim in (2, 4)]
            rest = [p for p in learning if not (group["muon"] and p.ndim in (2, 4))]
            if matrices:
                self._muon_step(matrices, group)
            if rest:
                self._adamw_step(rest, group)
        return loss

    def _muon_step(self, weights: list[torch.Tensor], group: dict) -> None:
        from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, muon

        for p in weights:
            buffer = self.state[p].get("momentum_buffer")
            if buffer is None or buffer.stride() != p.stride():  # saved in another memory format
                like = torch.zeros_like(p, memory_format=torch.preserve_format)
                self.state[p]["momentum_buffer"] = like if buffer is None else like.copy_(buffer)
        before = [p.clone() for p in weights] if group["hyperball"] else []
        muon(
            [as_matrix(p) for p in weights],
            [as_matrix(grad, like=p) for p in weights if (grad := p.grad) is not None],
            [as_matrix(self.state[p]["momentum_buffer"], like=p) for p in weights],
            lr=group["lr"],
            weight_decay=0.0 if before else group["weight_decay"],
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C),
            ns_steps=DEFAULT_NS_STEPS,
            eps=EPS,
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
        )
        if before:
            turn(weights, before, group["lr"])

    def _adamw_step(self, weights: list[torch.Tensor], group: dict) -> None:
        for p in weights:
            if "step" not in self.state[p]:
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p].update(step=torch.tensor(0.0), **moments)
        states = [self.state[p] for p in weights]
        beta1, beta2 = group["betas"]
        lr = group["lr"] * (OF_REST if group["hyperball"] else 1)
        adamw(
            weights,
            [grad for p in weights if (grad := p.grad) is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(self._converted(state_dict) if "parts" in state_dict else state_dict)

    def _converted(self, state: dict) -> dict:
        """The state of checkpoints up to format 2: two optimizers, and momentum in the shape of the matrices."""
        own, parts, first = self.state_dict(), state["parts"], 0
        for group, part in zip(self.param_groups, parts, strict=True):
            for index, values in part["state"].items():
                p = group["params"][index]
                if "momentum_buffer" in values:
                    buffer = torch.zeros_like(p, memory_format=torch.preserve_format)
                    as_matrix(buffer, like=p).copy_(values["momentum_buffer"])
                    values = {"momentum_buffer": buffer}
                own["state"][first + index] = values
            first += len(group["params"])
        return own


def turn(weights: list[torch.Tensor], before: list[torch.Tensor], part: float) -> None:
    """Makes each step from `before` to `weights` as long as that part of the norm before, and restores that norm."""
    norms, steps = torch._foreach_norm(before), torch._foreach_sub(weights, before)
    lengths = torch._foreach_clamp_min(torch._foreach_norm(steps), TINY)
    torch._foreach_mul_(steps, torch._foreach_div(torch._foreach_mul(norms, part), lengths))
    turned = torch._foreach_add(before, steps)
    torch._foreach_mul_(turned, torch._foreach_div(norms, torch._foreach_clamp_min(torch._foreach_norm(turned), TINY)))
    torch._foreach_copy_(weights, turned)


def as_matrix(filters: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """(O, I, h, w) -> (O, I h w), or (O, h w I) where the channels of `like` lie last: a view where layouts agree."""
    if filters.ndim == 2:
        return filters
    if (filters if like is None else like).is_contiguous():
        return filters.flatten(1)
    return filters.permute(0, 2, 3, 1).flatten(1)
