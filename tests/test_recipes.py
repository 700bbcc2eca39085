"""The parts of a recipe: what each changes of a training step, of the weights and of what is eval_model."""

import copy
from pathlib import Path

import pytest
import torch
from small_net import SmallNet
from torch import nn

import models
import models.building
from config import Config
from data.cache import CachedLoader
from data.loaders import Batch, EpochBatchSampler
from data.transforms import Preprocess
from engine.device import Device
from engine.linear_probe import STRENGTHS, fit_head
from engine.muon import Muon
from engine.optimizers import make_optimizer
from engine.recipe import class_weights, ema_update
from engine.schedules import Schedule
from engine.tasks.classify import Classify
from models.basic_module import BasicModule
from utils.errors import UsageError

CPU = Device(torch.device("cpu"), None, torch.contiguous_format)


def task(net=None, labels=(0, 1, 2), **options) -> Classify:
    torch.manual_seed(0)
    opt = Config(**{"optimizer": "SGD", "momentum": 0, "weight_decay": 0, "lr": 0.1} | options)
    net = net or models.build("LeNet", 3, 16)
    return Classify(net, ["a", "b", "c"], Preprocess(16), CPU, opt, [(Path(), label) for label in labels])


def batch(count=7) -> Batch:
    images = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(count) % 3, torch.arange(count))


def weights_after(one: Classify, steps=1) -> list[torch.Tensor]:
    for number in range(steps):
        torch.manual_seed(number)
        one.train_step(batch())
    return [p.detach().clone() for p in one.net.parameters()]


def test_a_batch_in_parts_gives_the_step_of_the_whole():
    whole, parts = weights_after(task()), weights_after(task(accumulate=3))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_no_part_of_a_batch_is_a_single_image():
    seen = []
    net = models.build("LeNet", 3, 16)
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    task(net, accumulate=4).train_step(batch(5))
    assert seen == [3, 2]


def test_images_are_smaller_in_the_first_part_of_the_training():
    seen = []
    net = models.build("CifarNet", 3, 16)
    net.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    one = task(net, progressive_resizing=0.5)
    for done in (0, 0.49, 0.5, 0.9):
        one.set_progress(done)
        one.train_step(batch(6))
    one.evaluate([batch(6)])
    assert seen == [(6, 3, 12, 12)] * 2 + [(6, 3, 16, 16)] * 3


def test_the_norm_of_the_gradients_is_limited():
    before = [p.detach().clone() for p in task().net.parameters()]
    free, limited = weights_after(task()), weights_after(task(clip_grad=0.01))
    norm = lambda after: torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]).norm() / 0.1  # noqa: E731
    assert norm(free) > 0.02 and abs(norm(limited) - 0.01) < 1e-5


def test_the_average_of_the_weights_is_what_is_judged_and_saved():
    one = task(ema=0.5)
    average = [p.detach().clone() for p in one.net.parameters()]
    for number in range(4):
        now = weights_after(one)
        weight = 1 if number == 0 else 1 - min(0.5, (1 + number) / (10 + number))
        average = [a.lerp(p, weight) for a, p in zip(average, now, strict=True)]
    state = one.state_dict()
    for p, a, raw in zip(state["net"].values(), average, state["learning_net"].values(), strict=True):
        torch.testing.assert_close(p, a)
        assert not torch.equal(p, raw)
    logits = next(one.predict([batch()]))[1]
    net = models.build("LeNet", 3, 16)
    net.load_state_dict(state["net"])
    torch.testing.assert_close(logits, net(one.preprocess.normalize(batch().images)))


def test_the_average_forgets_its_first_values_faster():
    update, one = ema_update(0.99), torch.ones(3)
    assert update(one * 0, one, torch.tensor(1.0))[0] > 0.8 > 0.02 > update(one * 0, one, torch.tensor(1e6))[0]


@pytest.mark.parametrize("options", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixing_depends_on_the_steps_number_alone(options):
    one, again, plain = weights_after(task(**options), 2), weights_after(task(**options), 2), weights_after(task(), 2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], plain[0])


def test_smoothed_labels_and_weighted_classes_are_in_the_loss():
    logits = task().net(Preprocess(16).normalize(batch().images)).detach()
    unequal = [0] * 10 + [1] * 2 + [2] * 50
    cases = [({"label_smoothing": 0.2}, {"label_smoothing": 0.2})]
    cases.append(({"balance": "loss", "labels": unequal}, {"weight": torch.tensor([62 / 30, 62 / 6, 62 / 150])}))
    for options, meant in cases:
        expected = nn.functional.cross_entropy(logits, batch().labels, **meant)
        torch.testing.assert_close(task(**options).train_step(batch())["loss"], expected)


def test_the_mirror_image_is_judged_too():
    one = task(flip_test=True)
    images = one.preprocess.normalize(batch().images)
    expected = (one.net(images) + one.net(images.flip(3))) / 2
    torch.testing.assert_close(next(one.predict([batch()]))[1], expected)


def test_moved_images_are_judged_too():
    one = task(flip_test=True, shift_test=2)
    images = one.preprocess.normalize(batch().images)
    place = torch.arange(16)
    reflected = [(15 - (15 - (place + by).abs()).abs()) for by in (2, -2)]
    views = [images, *(images[:, :, where][..., where] for where in reflected)]
    expected = sum(one.net(view) + one.net(view.flip(3)) for view in views) / 6
    torch.testing.assert_close(next(one.predict([batch()]))[1], expected)
    with pytest.raises(UsageError, match="--shift-test=16 is too much for images of 16 pixels"):
        task(shift_test=16)


def test_rare_classes_are_drawn_as_often_as_the_others():
    items = [(None, 0)] * 900 + [(None, 1)] * 90 + [(None, 2)] * 10
    weights = class_weights(items)
    assert (weights * torch.tensor([900, 90, 10])).tolist() == pytest.approx([1000 / 3] * 3)
    batches = EpochBatchSampler(1000, 50, 0, weights[[label for _, label in items]].tolist())
    drawn = [index for keys in batches for _, index, _ in keys]
    counts = torch.bincount(torch.tensor([items[i][1] for i in drawn]))
    assert len(drawn) == 1000 and (counts - 1000 / 3).abs().max() < 60
    batches.epoch = 1
    assert [index for keys in batches for _, index, _ in keys] != drawn
    batches.epoch, batches.start = 0, 950
    assert [index for keys in batches for _, index, _ in keys] == drawn[950:]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "plateau"])
def test_the_learning_rate_rises_first(name):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2)
    schedule = Schedule(optimizer, name, 2.0, 0.5, warmup=0.25)
    rates = []
    for done in (0, 0.125, 0.25, 0.5, 1):
        schedule.set(done)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.08) and rates[0] < rates[1] < rates[2] == 2
    assert rates[4] == pytest.approx(0 if name in ("cosine", "linear") else 2)
    assert schedule.warming_up(0.2) and not schedule.warming_up(0.3)


class Small(BasicModule):
    def __init__(self, num_classes=3):
        super().__init__()
        self.num_classes = num_classes
        self.conv, self.hidden, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 6), nn.Linear(6, num_classes)

    def forward(self, x):
        return self.head(self.hidden(self.conv(x).mean(dim=(2, 3))))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_hyperball_turns_matrices_and_keeps_their_norms():
    torch.manual_seed(0)
    net = Small()
    free = copy.deepcopy(net)
    before, head = net.conv.weight.detach().clone(), net.head.weight.detach().clone()
    for one, options in ((net, {"lr": 0.1, "hyperball": True, "weight_decay": 0.5}), (free, {"lr": 0.03})):
        optimizer = Muon.for_net(one, **options)
        torch.manual_seed(1)
        one(torch.randn(4, 3, 9, 9)).logsumexp(1).sum().backward()
        optimizer.step()
    step = free.conv.weight.detach() - before
    meant = before + step * (0.1 * before.norm() / step.norm())
    torch.testing.assert_close(net.conv.weight.detach(), meant * (before.norm() / meant.norm()))
    torch.testing.assert_close(net.head.weight, free.head.weight - 0.03 * 0.5 * head, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_filters_as_matrices_and_the_rest_with_adamw(memory_format):
    torch.manual_seed(0)
    net = Small().to(memory_format=memory_format)
    before = copy.deepcopy(net)
    optimizer = make_optimizer(net, Config(optimizer="Muon", lr=0.01, weight_decay=0.1, momentum=0.6), CPU)
    assert isinstance(optimizer, Muon) and len(optimizer.param_groups[0]["params"]) == 2
    net(torch.randn(4, 3, 9, 9)).logsumexp(1).sum().backward()
    optimizer.step()
    matrices = nn.ParameterList([before.conv.weight.detach().flatten(1).clone(), before.hidden.weight.detach().clone()])
    for matrix, grad in zip(matrices, (net.conv.weight.grad.flatten(1), net.hidden.weight.grad), strict=True):
        matrix.grad = grad.clone()
    torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.6, adjust_lr_fn="match_rms_adamw").step()
    torch.testing.assert_close(net.conv.weight.flatten(1), matrices[0], rtol=0.02, atol=1e-4)
    torch.testing.assert_close(net.hidden.weight, matrices[1], rtol=0.02, atol=1e-4)
    rest = [before.conv.bias, before.hidden.bias, before.head.weight, before.head.bias]
    for p, q in zip(rest, [net.conv.bias, net.hidden.bias, net.head.weight, net.head.bias], strict=True):
        p.grad = q.grad
    torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1).step()
    torch.testing.assert_close(net.head.weight, before.head.weight)
    torch.testing.assert_close(net.conv.bias, before.conv.bias)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_is_an_optimizer_of_torch(tmp_path):
    def step(net, optimizer):
        optimizer.zero_grad()
        net(images).logsumexp(1).sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    net, images, calls = Small(), torch.randn(4, 3, 9, 9), []
    optimizer = Muon.for_net(net, lr=0.01, momentum=0.9)
    assert isinstance(optimizer, torch.optim.Optimizer)
    hook = optimizer.register_step_post_hook(lambda *_: calls.append(1))
    step(net, optimizer)
    hook.remove()
    assert calls == [1] and set(optimizer.state) == set(net.parameters())
    # a copy, and one that was saved and loaded, go the same way
    twin_net, twin = copy.deepcopy((net, optimizer))
    torch.save(optimizer.state_dict(), tmp_path / "muon.pth")
    loaded_net = copy.deepcopy(net)
    loaded = Muon.for_net(loaded_net, lr=1.0)
    loaded.load_state_dict(torch.load(tmp_path / "muon.pth", weights_only=True))
    for one, its in ((net, optimizer), (twin_net, twin), (loaded_net, loaded)):
        step(one, its)
    for p, q, r in zip(net.parameters(), twin_net.parameters(), loaded_net.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)
    # a closure, and a further group
    assert optimizer.step(lambda: 7.0) == 7.0
    extra = nn.Parameter(torch.ones(3, 2))
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    extra.grad = torch.ones(3, 2)
    optimizer.step()
    assert not torch.equal(extra, torch.ones(3, 2)) and "momentum_buffer" in optimizer.state[extra]
    with pytest.raises(ValueError):
        optimizer.add_param_group({"params": [extra]})


@pytest.mark.parametrize(
    "saved, now",
    [(torch.channels_last, torch.contiguous_format), (torch.contiguous_format, torch.channels_last)],
)
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_the_momentum_of_muon_survives_another_memory_format(saved, now):
    torch.manual_seed(0)
    one, images = Small().to(memory_format=saved), torch.randn(4, 3, 9, 9)
    optimizer = Muon.for_net(one, lr=0.01, momentum=0.9)
    one(images).logsumexp(1).sum().backward()
    optimizer.step()
    other = copy.deepcopy(one).to(memory_format=now)
    resumed = Muon.for_net(other, lr=0.01, momentum=0.9)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, its in ((one, optimizer), (other, resumed)):
        its.zero_grad()
        net(images).logsumexp(1).sum().backward()
        its.step()
    # not the weights: in bfloat16 the order of the columns changes what Newton-Schulz makes of small singular values
    momenta = [its.state[net.conv.weight]["momentum_buffer"] for net, its in ((one, optimizer), (other, resumed))]
    torch.testing.assert_close(*momenta, rtol=1e-4, atol=1e-6)
    assert momenta[1].stride() == other.conv.weight.stride() != one.conv.weight.stride()


@pytest.mark.parametrize("name", ["plateau", "cosine", "linear", "onecycle", "constant"])
def test_groups_keep_the_ratio_of_their_rates(name):
    """Book, 4.3: a pretrained part that learns slower than the head, and one that stands still."""
    parts = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [parts[0]], "lr": 0.02}, {"params": [parts[1]]}, {"params": [parts[2]], "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.2)
    schedule = Schedule(optimizer, name, 0.2, 0.5, warmup=0 if name == "onecycle" else 0.25)
    for progress in (0, 0.1, 0.4, 0.9):
        schedule.set(progress)
        slow, fast, still = (group["lr"] for group in optimizer.param_groups)
        assert slow == pytest.approx(fast / 10) and still == 0 < fast
    schedule.end_epoch(1.0)
    schedule.end_epoch(2.0)
    schedule.set(0.9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(slow * (0.5 if name == "plateau" else 1))


def test_a_rate_changed_by_hand_is_in_force_and_falls_from_there():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = Schedule(optimizer, "linear", 0.1, 0.5)
    schedule.set(0.5)
    optimizer.param_groups[0]["lr"] = 0.5  # it was 0.05
    schedule.set(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    again = Schedule(optimizer, "linear", 0.1, 0.5)
    again.load_state_dict(schedule.state_dict())
    for one in (schedule, again):
        one.set(0.75)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25)


# ---- the head of a pretrained net


def small() -> SmallNet:
    torch.manual_seed(0)
    net = SmallNet(3)
    models.building.set_facts(net, 3, 3)
    return net


def probed(net=None, **options):
    """A task whose head was fitted to these images, its images and what was said."""
    one = task(net or small(), **options)
    pixels = torch.randint(0, 256, (60, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    labels = (pixels.float().mean(dim=(1, 2)) - 127).argmax(dim=1)  # by the strongest colour
    items = [(Path(str(number)), int(label)) for number, label in enumerate(labels)]
    loader = CachedLoader(items, pixels, one.preprocess, EpochBatchSampler(len(items), 7))
    return one, pixels, labels, fit_head(one, loader)


def test_the_head_is_fitted_as_a_logistic_regression_would_be():
    one, pixels, labels, said = probed(flip=True)
    net, images = one.net.eval(), one.preprocess.normalize(pixels)
    seen = []
    net.fc.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].detach()))
    with torch.no_grad():
        right = (net(images).argmax(1) == labels).float().mean()
        net(images.flip(3))
    features = torch.cat(seen)
    weight, mean, std = net.fc.weight.detach(), features.mean(0), features.std(0)
    standard = (weight * std).requires_grad_()
    bias = (net.fc.bias + weight @ mean).detach().requires_grad_()
    loss = nn.functional.cross_entropy((features - mean) / std @ standard.T + bias, labels.repeat(2))
    slope = torch.autograd.grad(loss, [standard, bias])
    strengths = -(slope[0] / standard.detach())  # at the minimum the loss falls as the L2 term grows
    assert right > 0.7 and "60 images and their mirror images" in said  # by chance a third
    assert any((slope[0] + s * standard.detach()).abs().max() < 1e-3 for s in STRENGTHS), strengths
    assert slope[1].abs().max() < 1e-3


def test_only_the_head_is_fitted():
    net = small()
    before = copy.deepcopy(net.state_dict())
    probed(net)
    changed = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["fc.weight", "fc.bias"]


def test_a_head_without_bias_whose_output_is_divided():
    one, pixels, labels, _ = probed(models.build("CifarNet", 3, 16))
    with torch.no_grad():
        logits = one.net.eval()(one.preprocess.normalize(pixels))
    assert (logits.argmax(1) == labels).float().mean() > 0.8


def test_a_net_that_does_not_end_in_a_linear_layer_has_no_head_to_fit():
    with pytest.raises(UsageError, match="--linear-probe needs a net that ends in a linear layer"):
        probed(models.build("SqueezeNet", 3, 64))


def test_the_backbone_learns_at_its_own_rate():
    plain, slow, still = (weights_after(task(small(), backbone_lr=part)) for part in (1, 0.1, 0))
    first = [p.detach().clone() for p in small().parameters()]
    names = [name for name, _ in small().named_parameters()]
    for name, start, fast, slower, none in zip(names, first, plain, slow, still, strict=True):
        if name.startswith("fc"):
            torch.testing.assert_close(slower, fast)
            assert not torch.equal(none, start)
        else:
            torch.testing.assert_close(slower - start, (fast - start) / 10, rtol=0.01, atol=1e-6)
            assert torch.equal(none, start)
    one = task(small(), backbone_lr=0.1, scheduler="linear")
    one.set_progress(0.5)
    assert [group["lr"] for group in one.optimizer.param_groups] == pytest.approx([0.05, 0.005])
    with pytest.raises(UsageError, match="--backbone-lr needs a net that ends in a linear layer"):
        task(models.build("SqueezeNet", 3, 64), backbone_lr=0.1)


def test_moved_images_are_judged_after_the_last_epoch_only():
    one, plain = task(shift_test=2), task()
    one.final = False
    assert torch.equal(next(one.predict([batch()]))[1], next(plain.predict([batch()]))[1])
    one.final = True
    assert not torch.equal(next(one.predict([batch()]))[1], next(plain.predict([batch()]))[1])
