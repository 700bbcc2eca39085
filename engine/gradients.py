"""The gradients of a step, added up over all processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from utils import world

BUCKET = 10 * 2**20  # bytes of gradients that go in one message; measured: docs/many-machines.md


class Gradients:
    """Adds up the gradients of a net over all processes; alone it does nothing.

    Those of large nets are on their way in buckets while the backward pass goes on, as with DistributedDataParallel
    (Li et al. 2020, "PyTorch Distributed"); which does not serve here: it averages over processes, not over images,
    does nothing under `torch.autograd.grad`, and gives the weights other names.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.buckets: list[Bucket] = []
        self.learning: list[bool] = []  # of the weights those that got a gradient in the last step
        self.armed = False

    @contextmanager
    def on_their_way(self) -> Iterator[None]:
        """Around the last backward pass of a step: a bucket is sent as soon as its gradients are there."""
        if world.now.size == 1:
            yield
            return
        for bucket in self.buckets:
            bucket.missing, bucket.sent = len(bucket.weights), False
        self.armed, self.next = True, 0
        try:
            yield
        finally:
            self.armed = False

    def add_up(self, *scalars: torch.Tensor) -> list[torch.Tensor]:
        """The gradients become the sums of those of all processes. Returns the sums of the scalars, too.

        A weight that has no gradient in any process has none after it.
        """
        if world.now.size == 1:
            return list(scalars)
        weights = [p for p in self.net.parameters() if p.requires_grad]
        sums, have = torch.stack([s.detach().double() for s in scalars]), [p.grad is not None for p in weights]
        learning = self._any(have, sums)
        learns = {id(p) for p, some in zip(weights, learning, strict=True) if some}
        whole = [bucket for bucket in self.buckets if learns.issuperset(map(id, bucket.weights))]
        going = {id(p) for bucket in whole for p in bucket.weights}
        late = _bucketed([p for p in weights if id(p) in learns - going])
        for bucket in [*whole, *late]:  # in the same order in all, whoever has sent some of them already
            if not bucket.sent:
                bucket.send()
        world.finish()
        for bucket in self.buckets:
            bucket.sent = False
        if learning != self.learning:
            self._expect(weights, learning)
        return [value.to(s.dtype) for value, s in zip(sums, scalars, strict=True)]

    @staticmethod
    def _any(have: list[bool], scalars: torch.Tensor) -> list[bool]:
        """Which of these any process has. The scalars (S,), which become their sums, are sent along."""
        flags = torch.tensor(have, dtype=scalars.dtype)
        if scalars.is_cuda:  # one message would have to wait for the GPU
            world.add_up(scalars)
            world.add_up(flags)
        else:
            message = torch.cat([scalars, flags])
            world.add_up(message)
            scalars[:], flags = message.split([len(scalars), len(flags)])
        return (flags > 0).tolist()

    def _expect(self, weights: list[nn.Parameter], learning: list[bool]) -> None:
        """Plans the buckets of the steps to come: of the weights that learn, the last first, as backward has them."""
        first, self.learning = not self.learning, learning
        self.buckets = _bucketed([p for p, learns in zip(weights, learning, strict=True) if learns])
        self.bucket_of = {id(p): bucket for bucket in self.buckets for p in bucket.weights}
        if first:
            for p in weights:
                p.register_post_accumulate_grad_hook(self._there)

    def _there(self, weight: torch.Tensor) -> None:
        bucket = self.bucket_of.get(id(weight)) if self.armed else None
        if bucket is None:
            return
        bucket.missing -= 1
        while self.next < len(self.buckets) and not self.buckets[self.next].missing:  # in the same order everywhere
            self.buckets[self.next].send()
            self.next += 1


class Bucket:
    """Weights whose gradients go in one message."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.weights, self.missing = weights, len(weights)
        self.strides = [torch.empty_like(p, device="meta").stride() for p in weights]
        self.sent = False

    @torch.no_grad()
    def send(self) -> None:
        """Copies the gradients into one tensor, of which they are parts from now on, and begins to add it up."""
        flat, start, parts, gradients = self.weights[0].new_empty(sum(p.numel() for p in self.weights)), 0, [], []
        for p, strides in zip(self.weights, self.strides, strict=True):
            part = flat.as_strided(p.shape, strides, start)
            start += p.numel()
            if p.grad is None:
                part.zero_()
            else:
                parts.append(part)
                gradients.append(p.grad)
            p.grad = part
        if parts:
            torch._foreach_copy_(parts, gradients)
        world.begin_to_add_up(flat)
        self.sent = True


def _bucketed(weights: list[nn.Parameter]) -> list[Bucket]:
    """The weights from the last to the first, in buckets of one type and place each."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for p in reversed(weights):
        alike = buckets and (p.dtype, p.device) == (buckets[-1][0].dtype, buckets[-1][0].device)
        if not alike or size >= BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(p)
        size += p.numel() * p.element_size()
    return [Bucket(weights) for weights in buckets]
