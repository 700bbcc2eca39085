"""What a net sees of the whole batch where each process holds a part of it: statistics, draws, sums of gradients."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data.shard import Piece, cuts
from engine import gradients
from engine.whole_batch import WholeBatch
from utils import world

PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def in_processes(size: int, function: Callable[[int], object], folder: Path) -> list:
    """What `function(rank)` gives in each of so many processes that are joined.

    That of the tests must not do its work: once it has computed a gradient on a GPU machine it cannot be forked.
    """

    def child(rank: int) -> None:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", f"file://{folder}/store{size}", rank=rank, world_size=size)
        world.now = world.World(rank=rank, size=size, side_group=torch.distributed.new_group())
        torch.save(function(rank), folder / f"{rank}.pth")
        torch.distributed.destroy_process_group()

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=[rank]) for rank in range(size)]
    for one in children:
        one.start()
    for one in children:
        one.join(60)
        one.kill()
    return [torch.load(folder / f"{rank}.pth") for rank in range(size)]


def pieces(total: int, size: int) -> list[Piece]:
    found = []
    for first, last in cuts(0, total, size):
        found.append(Piece(slice(0, max(last - first, 1)), first if last > first else 0, total, last > first))
    return found


# ---- batch normalization


@pytest.mark.parametrize(
    ("shape", "last", "affine", "running", "total"),
    [
        ((6,), False, True, True, 7),
        ((3, 5), False, True, True, 7),
        ((4, 5, 3), False, True, True, 7),
        ((4, 5, 3), True, True, False, 7),
        ((4, 5, 3), True, False, True, 7),
        ((4, 2, 5, 3), False, True, True, 7),
        ((4, 5, 3), False, True, True, 2),
    ],
)
def test_batch_norm_is_that_of_the_whole_batch(shape, last, affine, running, total, tmp_path):
    torch.manual_seed(1)
    x, slope = (torch.randn(total, *shape, dtype=torch.float64) * 3 + 5 for _ in range(2))
    start = [torch.rand(shape[0], dtype=torch.float64) + 1 for _ in range(4)]

    def normalized(images: torch.Tensor, slopes: torch.Tensor, counts: bool = True) -> dict:
        mean, variance, weight, bias = (value.clone() for value in start)
        images = images.to(memory_format=torch.channels_last) if last else images.clone()
        images.requires_grad = True
        kept = (weight.requires_grad_(), bias.requires_grad_()) if affine else (None, None)
        of_running = (mean, variance) if running else (None, None)
        y = F.batch_norm(images, *of_running, *kept, True, 0.3, 1e-4)
        (y * slopes * counts).sum().backward()
        of_weights = [weight.grad, bias.grad] if affine else []
        return {"y": y.detach(), "of_x": images.grad, "of_weights": of_weights, "running": (mean, variance)}

    (whole,), shards = in_processes(1, lambda rank: normalized(x, slope), tmp_path), pieces(total, 3)

    def of_rank(rank: int) -> dict:
        piece = shards[rank]
        own = slice(piece.start, piece.start + len(piece))
        with WholeBatch(piece):
            return normalized(x[own], slope[own], piece.counts)

    found = in_processes(3, of_rank, tmp_path)
    counting = [one for one, piece in zip(found, shards, strict=True) if piece.counts]
    near = {"rtol": 1e-12, "atol": 1e-12}
    for name in ("y", "of_x"):
        torch.testing.assert_close(torch.cat([one[name] for one in counting]), whole[name], **near)
    for i, of_weight in enumerate(whole["of_weights"]):
        torch.testing.assert_close(sum(one["of_weights"][i] for one in found), of_weight, **near)
    for one in found:
        torch.testing.assert_close(one["running"], whole["running"], **near)
    assert not any(one["of_x"].any() for one, piece in zip(found, shards, strict=True) if not piece.counts)


# ---- what is drawn


def attention(x: torch.Tensor) -> torch.Tensor:
    x = x.view(len(x), 1, 4, -1)
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.4)


def drop_path(x: torch.Tensor) -> torch.Tensor:
    layers = pytest.importorskip("timm.layers")
    return layers.drop_path(x, 0.5, training=True)


@pytest.mark.parametrize("device", PLACES)
@pytest.mark.parametrize(
    "draw",
    [
        lambda x: F.dropout(x, 0.4),
        lambda x: F.dropout(x, 0.4, True),
        lambda x: F.dropout(x.clone(), 0.4, training=True, inplace=True),
        lambda x: F.dropout(x.flatten(0, 1), 0.4).view(x.shape),
        lambda x: F.dropout(x.permute(0, 2, 1), 0.4).permute(0, 2, 1),
        lambda x: F.dropout1d(x, 0.4),
        lambda x: F.alpha_dropout(x, 0.4, True),
        lambda x: F.feature_alpha_dropout(x, 0.4, True),
        lambda x: F.rrelu(-x, training=True),
        lambda x: torch.bernoulli(x),
        lambda x: x.clone().bernoulli_(0.4),
        lambda x: torch.empty_like(x).normal_(),
        lambda x: torch.rand_like(x),
        lambda x: torch.randn(x.shape, device=x.device),
        lambda x: torch.rand(*x.shape, device=x.device),
        lambda x: torch.randint(5, (len(x), 2), device=x.device),
        lambda x: torch.randint(2, 5, size=(len(x), 2), device=x.device),
        lambda x: F.gumbel_softmax(x, tau=0.5),
        attention,
        drop_path,
    ],
)
def test_what_is_drawn_is_a_part_of_what_is_drawn_for_the_whole_batch(draw, device, tmp_path):
    def drawn(rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        x = torch.rand(7, 4, 4, device=device)
        torch.manual_seed(3)
        whole, found = draw(x), []
        for piece in [*pieces(7, 2), *pieces(7, 3)]:
            torch.manual_seed(3)
            own = slice(piece.start, piece.start + len(piece))
            with WholeBatch(piece):
                found.append((draw(x[own]).cpu(), whole[own].cpu()))
        return found

    ((*found, (last, part)),) = in_processes(1, drawn, tmp_path)
    for one, other in found:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert part.any() and torch.allclose(last, part)


def test_what_draws_nothing_stays_as_it_is():
    x = torch.rand(3, 4)
    with WholeBatch(Piece(slice(0, 3), 0, 6)):
        state = torch.get_rng_state()
        assert F.dropout(x, 0.5, training=False).data_ptr() == x.data_ptr()
        assert torch.equal(F.rrelu(-x), F.rrelu(-x)) and attention(torch.rand(3, 4, 4)).shape == (3, 1, 4, 4)
        assert torch.randn(5).shape == (5,) and torch.rand(()).shape == ()
        assert not torch.equal(torch.get_rng_state(), state)
        assert nn.BatchNorm1d(4).eval()(x).shape == x.shape


# ---- gradients


@pytest.mark.parametrize("bucket", [1, 2**20])
def test_gradients_are_sums_also_of_weights_that_only_one_process_uses(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET", bucket)
    torch.manual_seed(1)
    net = nn.ModuleDict({name: nn.Linear(3, 2, bias=False) for name in ("all", "one", "none", "late")})
    net["frozen"] = nn.Linear(3, 2).requires_grad_(False)
    net["all"].weight.data = net["all"].weight.data.T.contiguous().T
    x = torch.randn(3, 3)

    def of_rank(rank: int) -> list:
        sums, steps = gradients.Gradients(net), []
        for step in range(4):
            net.zero_grad(set_to_none=True)
            used = ["all"] + ["one"] * (rank == 1) + ["late"] * (step > 1)
            with sums.on_their_way():
                sum(net[name](x[rank]).sum() for name in used).backward()
            (total,) = sums.add_up(torch.tensor(rank + 1.0))
            steps.append([total, {name: one.weight.grad for name, one in net.items()}])
        assert net["all"].weight.grad.stride() == net["all"].weight.stride()
        return steps

    found = in_processes(3, of_rank, tmp_path)
    everyone = x.sum(0).expand(2, 3)
    for steps in found:
        for step, (total, grad) in enumerate(steps):
            assert total == 6 and grad["none"] is None and grad["frozen"] is None
            torch.testing.assert_close(grad["all"], everyone)
            torch.testing.assert_close(grad["one"], x[1].expand(2, 3))
            assert (grad["late"] is None) == (step < 2)
            if step > 1:
                torch.testing.assert_close(grad["late"], everyone)
