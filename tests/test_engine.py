"""Schedules, metrics, the device, the CSV: small pieces with known answers."""

import csv
import math
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from torch import nn, optim

import models
from config import Config
from data.loaders import Batch
from data.transforms import Preprocess
from engine import busy, device, metrics
from engine.messages.classify import ClassifyMessages
from engine.schedules import Schedule
from engine.tasks.base import NonFiniteError
from engine.tasks.classify import Classify
from runs import results
from utils.errors import UsageError


def schedule(name, lr=0.1, lr_decay=0.5):
    return Schedule(optim.SGD(nn.Linear(2, 2).parameters(), lr=lr), name, lr, lr_decay)


def rates(s, dones):
    got = []
    for done in dones:
        s.set(done)
        got.append(s.optimizer.param_groups[0]["lr"])
    return got


def test_plateau_falls_when_the_validation_loss_rises_and_only_then():
    s = schedule("plateau")
    seen = []
    for epoch, loss in enumerate((1.0, 0.9, 0.95, 0.95, 0.8, 0.81, 0.82)):
        s.end_epoch(loss)
        seen += rates(s, [epoch / 7])
    assert seen == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.0125])


def test_cosine_and_constant():
    tenths = [i / 10 for i in range(11)]
    cosine = rates(schedule("cosine"), tenths)
    assert cosine == pytest.approx([0.05 * (1 + math.cos(math.pi * done)) for done in tenths])
    assert rates(schedule("constant"), tenths) == [0.1] * 11


def test_onecycle_is_that_of_torch():
    peak, end = 0.3 * 101 - 1, 100  # torch counts to the last step's index
    dones = [0.3 * i / peak if i < peak else 0.3 + 0.7 * (i - peak) / (end - peak) for i in range(101)]
    ours = rates(schedule("onecycle"), dones)
    optimizer = optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    theirs = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=101, cycle_momentum=False)
    expected = []
    for _ in range(101):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert ours == pytest.approx(expected)
    s = schedule("onecycle")
    assert [s.warming_up(done) for done in (0, 0.29, 0.31, 0.9)] == [True, True, False, False]


def test_a_saved_schedule_goes_on():
    first, second = schedule("plateau"), schedule("plateau")
    for loss in (1.0, 2.0):
        first.end_epoch(loss)
    second.load_state_dict(first.state_dict())
    for s in (first, second):
        s.end_epoch(3.0)
    assert rates(first, [0.5]) == rates(second, [0.5]) == [0.1 / 4]


def test_metrics_by_hand():
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    got = metrics.compute(probs.log(), labels)
    assert got["accuracy"] == pytest.approx(3 / 5)
    assert got["loss"] == pytest.approx(-sum(map(math.log, (0.9, 0.8, 0.4, 0.7, 0.4))) / 5, rel=1e-5)
    assert got["confusion"] == [[2, 1], [1, 1]]
    assert got["class_accuracy"] == pytest.approx([2 / 3, 1 / 2])
    assert got["roc_auc"] == pytest.approx(5 / 6)  # of the 6 pairs, (0.6, 0.4) is in the wrong order
    # confidences 0.9 0.8 0.6 0.7 0.6 (right, right, wrong, right, wrong), each bin's gap weighted by its images
    assert got["calibration_error"] == pytest.approx((0.1 + 0.2 + 2 * 0.6 + 0.3) / 5, rel=1e-4)


def test_metrics_of_three_classes():
    logits = torch.eye(3)[[0, 1, 2, 1]] * 5
    got = metrics.compute(logits, torch.tensor([0, 1, 2, 2]))
    assert got["accuracy"] == 0.75 and got["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert 0 <= got["calibration_error"] <= 1 and 0.5 < got["roc_auc"] < 1
    task = SimpleNamespace(opt=None, metrics=metrics.METRICS, classes=["a", "bb", "ccc"])
    text = ClassifyMessages(task).table(got)
    assert "75.0000%" in text and text.count("\n") == 9


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="finds no GPU"):
        device.select_device(Config(use_gpu=True))
    picked = device.select_device(Config(amp="off", channels_last=False))
    assert picked.device.type == "cpu" and picked.amp is None
    assert picked.memory_format == torch.contiguous_format
    assert device.select_device(Config(amp="bf16")).amp == torch.bfloat16
    with pytest.raises(UsageError, match="--amp=fp16 is for GPUs"):
        device.select_device(Config(amp="fp16"))


def half_task() -> Classify:
    """A task that scales its loss, though it computes in float32."""
    torch.manual_seed(0)
    net = models.build("MNISTNet", 3, 28, channels=1)
    preprocess = Preprocess(28, mean=(0.5,), std=(0.5,))
    half = device.Device(torch.device("cpu"), torch.float16, torch.contiguous_format)
    task = Classify(net, ["a", "b", "c"], preprocess, half, Config(optimizer="SGD"), items=[])
    task.device = device.Device(torch.device("cpu"), None, torch.contiguous_format)
    return task


def test_a_scaled_loss_gives_the_step_of_the_plain_one():
    batch = Batch(torch.randint(256, (6, 28, 28, 1)).to(torch.uint8), torch.arange(6) % 3, torch.arange(6))
    scaled, plain = half_task(), half_task()
    plain.loss_scale = None
    for task in (scaled, plain):
        torch.manual_seed(1)
        task.train_step(batch)
    for p, q in zip(scaled.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert scaled.loss_scale.state_dict() == {"factor": 2.0**16, "steps": 1}
    half_task().load_state_dict(scaled.state_dict())


def test_a_step_that_overflows_is_taken_again_with_a_lower_scale():
    """Gradients that are too large for float16 are those of a factor above 16 here; the statistics move once only."""
    batch = Batch(torch.randint(256, (6, 28, 28, 1)).to(torch.uint8), torch.arange(6) % 3, torch.arange(6))
    task, plain = half_task(), half_task()
    for one in (task, plain):
        one.net.norm = nn.BatchNorm1d(3, affine=False)
        one.net.register_forward_hook(lambda module, inputs, logits: module.norm(logits))
    plain.loss_scale = None
    unscale, infinite = task.loss_scale.unscale, torch.tensor(float("inf"))

    def overflows(net):
        unscale(net)
        if task.loss_scale.factor > 16:
            next(net.parameters()).grad.mul_(infinite)

    task.loss_scale.unscale = overflows
    for one in (task, plain):
        one.train_step(batch)
    assert task.loss_scale.state_dict() == {"factor": 16.0, "steps": 1}
    for name, value in plain.net.state_dict().items():
        torch.testing.assert_close(task.net.state_dict()[name], value, msg=name)
    task.loss_scale.unscale = lambda net: next(net.parameters()).grad.mul_(float("nan"))
    with pytest.raises(NonFiniteError):
        task.train_step(batch)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
@pytest.mark.slow
def test_what_a_step_frees_serves_the_next_one():
    script = """
import resource, torch
from config import Config
from engine import device

def faults_of_a_step():
    faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # it settles after a few
        before = faults()
        torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return faults() - before

given_back = faults_of_a_step()
device.select_device(Config(use_gpu=False))
print(given_back, faults_of_a_step())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    given_back, kept = map(int, done.stdout.split())
    assert 5 * kept < given_back


def predictions(count, classes, size=4):
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, size):
        n = min(size, count - start)
        yield Batch(torch.zeros(n), torch.full((n,), -1), torch.arange(n)), torch.randn(n, classes, generator=generator)


def test_csv_of_two_classes(tmp_path):
    path = tmp_path / "r.csv"
    ids = [str(i) for i in range(1, 11)]
    assert len(results.write_csv(path, ids, predictions(10, 2), ["cat", "dog"])) == 10
    rows = list(csv.reader(path.open()))
    assert rows[0] == ["id", "label"] and [row[0] for row in rows[1:]] == ids
    logits = torch.cat([logits for _, logits in predictions(10, 2)])
    torch.testing.assert_close(
        torch.tensor([float(row[1]) for row in rows[1:]]), logits.softmax(dim=1)[:, 1], rtol=0, atol=1e-6
    )


def test_csv_of_more_classes_and_odd_names(tmp_path):
    path = tmp_path / "r.csv"
    results.write_csv(path, ["a,b.jpg", 'c"d.jpg', "é.jpg"], predictions(3, 3), ["x", "y", "z"])
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["id"] for row in rows] == ["a,b.jpg", 'c"d.jpg', "é.jpg"]
    for row in rows:
        probs = {name: float(row[name]) for name in "xyz"}
        assert sum(probs.values()) == pytest.approx(1, abs=1e-6)
        assert row["predicted"] == max(probs, key=probs.get)


def test_a_csv_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("old")

    def broken():
        yield from predictions(8, 2)
        raise RuntimeError("a bug in the middle")

    with pytest.raises(RuntimeError):
        results.write_csv(path, [str(i) for i in range(20)], broken(), ["cat", "dog"])
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_busy_machine_is_told_with_fewer_threads(monkeypatch):
    """Readings: seconds on the clock, seconds that the cores worked in all, and for this process."""
    monkeypatch.setattr(busy, "cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(busy, "_start", (100.0, 50.0, 1.0))
    for worked, own, threads in ((52.2, 3.0, None), (54.0, 1.0, 2), (58.0, 1.0, 1), (64.0, 15.0, None)):
        monkeypatch.setattr(busy, "_now", lambda worked=worked, own=own: (102.0, worked, own))
        line = busy.busy_hint(Config())
        assert (line is None) == (threads is None) and (line is None or f"--threads={threads} may be" in line)
    assert busy.busy_hint(Config(threads=4)) is None  # as asked


def test_the_number_of_threads_is_an_option_and_recorded():
    before = torch.get_num_threads()
    try:
        assert device.select_device(Config(threads=3, use_gpu=False)).metadata()["threads"] == 3
    finally:
        torch.set_num_threads(before)
