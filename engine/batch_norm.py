"""Batch normalization over the images of all processes (Ioffe and Szegedy 2015): one message each way.

`nn.SyncBatchNorm` does it on GPUs only, and asks for layers of its own. The kernels are PyTorch's here as well.
"""

import functools
from typing import Any

import torch
from torch.nn import functional as F

from utils import world


def batch_norm(
    counts: bool,
    input: torch.Tensor,  # noqa: A002 - as PyTorch calls it
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`F.batch_norm` with the statistics of the whole batch, of which the running ones are made, too.

    Args:
        counts: whether the images of this process are of the batch; else they only go along.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    running = (running_mean, running_var, momentum) if running_var is not None else (None, None, 0.0)
    function = CudaBatchNorm if input.is_cuda else BatchNorm
    return function.apply(input.contiguous(memory_format=_format(input)), weight, bias, running, eps, counts)


class BatchNorm(torch.autograd.Function):
    """(n, C, ...) -> the same, normalized with the mean and variance of each channel over all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running: tuple[torch.Tensor | None, torch.Tensor | None, float],
        eps: float,
        counts: bool,
    ) -> torch.Tensor:
        unused = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        own = torch.batch_norm_update_stats(x, unused, unused.clone(), 0.0)
        means, variances, numbers = (part.double() for part in _of_each(*own, x, counts))
        total = numbers.sum()
        mean = (numbers @ means) / total
        variance = (numbers @ (variances + (means - mean).square())) / total
        if running[0] is not None and running[1] is not None:
            running[0].lerp_(mean.to(running[0].dtype), running[2])
            running[1].lerp_((variance * total / (total - 1).clamp(min=1)).to(running[1].dtype), running[2])
        mean, variance = mean.to(unused.dtype), variance.to(unused.dtype)
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps, ctx.counts = eps, counts
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_format(x))
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        sum_of_bias, sum_of_weight = _added_up(of_bias, of_weight, ctx.counts) / total.to(mean.dtype)
        scale = (variance + ctx.eps).rsqrt()
        factor = scale if weight is None else scale * weight
        slope = factor * scale * sum_of_weight
        factor, slope, shift = (
            v.view(1, -1, *[1] * (x.dim() - 2)) for v in (factor, slope, slope * mean - factor * sum_of_bias)
        )
        of_x = torch.addcmul(shift, gradient, factor).addcmul_(x, slope, value=-1).to(x.dtype)
        if not ctx.counts:
            of_x.zero_()
        return of_x, *((of_weight, of_bias) if weight is not None else (None, None)), None, None, None


class CudaBatchNorm(torch.autograd.Function):
    """The same with the kernels of nn.SyncBatchNorm, which take 1 / sqrt(variance + eps) in place of the variance."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running: tuple[torch.Tensor | None, torch.Tensor | None, float],
        eps: float,
        counts: bool,
    ) -> torch.Tensor:
        means, scales, numbers = _of_each(*torch.batch_norm_stats(x, eps), x, counts)
        mean, scale = torch.batch_norm_gather_stats_with_counts(x, means, scales, *running, eps, numbers)
        ctx.save_for_backward(x, weight, mean, scale, numbers)
        ctx.counts = counts
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, scale, numbers = ctx.saved_tensors
        gradient, affine = gradient.contiguous(memory_format=_format(x)), weight is not None
        one, other, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, scale, weight, True, affine, affine
        )
        one, other = _added_up(one, other, ctx.counts)
        of_x = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, one, other, numbers.int())
        if not ctx.counts:
            of_x.zero_()
        return of_x, *((of_weight, of_bias) if affine else (None, None)), None, None, None


def _format(x: torch.Tensor) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    return last if x.is_contiguous(memory_format=last) else torch.contiguous_format


def _of_each(
    mean: torch.Tensor, spread: torch.Tensor, x: torch.Tensor, counts: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each of P processes has: mean and variance, or another spread, (P, C), of so many values, (P,)."""
    number = _number(x.numel() // x.shape[1] if counts else 0, mean.dtype, mean.device)
    everyone = world.from_each(torch.cat([mean, spread, number]))
    return everyone[:, : len(mean)], everyone[:, len(mean) : -1], everyone[:, -1]


@functools.cache
def _number(n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(1,): made once, as a launch on a GPU takes as long as the message."""
    return torch.full((1,), n, dtype=dtype, device=device)


def _added_up(one: torch.Tensor, other: torch.Tensor, counts: bool) -> torch.Tensor:
    sums = torch.stack([one, other])
    if not counts:
        sums.zero_()
    world.add_up(sums)
    return sums
