"""Why a net does not learn: --watch, check --overfit, check --lr-find."""

import json
import math
import re

import numpy as np
import pytest
import torch
from compare import same, trained
from conftest import ROOT, resumes_bit_for_bit
from PIL import Image
from torch import nn

from analysis import labels, lr_find, overfit
from engine.symptoms import Symptoms
from engine.tasks.classify import Classify
from engine.tasks.gan import Gan
from engine.watch import Look, Watch
from report.sections import watch as section
from report.subject import Subject
from runs import history
from runs.record import Record
from utils import checkpoints

SICK = f"{ROOT}/tests/sick_nets.py"
FLAGS = [
    f"--model={SICK}:Healthy",
    *("--dataset=MNIST", "--batch-size=24", "--max-epoch=2", "--print-freq=4", "--num-workers=0", "--use-gpu=false"),
    *("--amp=off", "--vis-port=None"),
]


def watched(run) -> list[dict]:
    """The entries of --watch in a run's record."""
    return [e for e in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if e["kind"] == "watch"]


def column(entry: dict, name: str) -> dict[str, float]:
    return dict(zip(entry["layers"], entry[name], strict=True))


# --- train --watch


def test_the_numbers_are_those_of_a_step():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Flatten())
    nn.init.constant_(net[0].bias[:3], -1000)
    x, optimizer = torch.randn(8, 4), torch.optim.SGD(net.parameters(), lr=0.1)
    before = [p.detach().clone() for p in net[2].parameters()]
    with Look(net) as look:
        loss = net(x).square().sum()
        loss.backward()
        optimizer.step()
    values = look.values()
    assert values["layers"] == ["0", "2"] and values["dead"] == [0.5, None]
    with torch.no_grad():
        moved = math.hypot(*((p - old).norm() for p, old in zip(net[2].parameters(), before, strict=True)))
        ratio = moved / math.hypot(*(old.norm() for old in before))
        gradients = torch.cat([p.grad.flatten() for p in net[2].parameters()])
    assert values["update"][1] == pytest.approx(ratio, rel=1e-3)
    assert values["gradient"][1] == pytest.approx(gradients.std(correction=0).item(), rel=1e-3)
    net[0].weight.data, net[0].bias.data = (
        net[0].weight + 0.1 * net[0].weight.grad,
        net[0].bias + 0.1 * net[0].bias.grad,
    )
    assert values["activation"][0] == pytest.approx(net[0](x).std(correction=0).item(), rel=1e-3)


def test_nothing_is_hooked_outside_of_a_watched_step():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    watch = Watch(net, every=3)
    seen = []
    for number in range(1, 8):
        with watch.step(number, 1, 0.1):
            seen.append(len(net[0]._forward_hooks))
        assert not net[0]._forward_hooks
    assert seen == [1, 0, 0, 1, 0, 0, 1] and [step for step, _ in watch.pending] == [1, 4, 7]


def test_watching_changes_no_number(train):
    one, other = train()[1], train("--watch")[1]
    a, b = (trained(checkpoints.read(run / "last.pth")) for run in (one, other))
    assert same(a, b)
    entries = watched(other)
    assert [e["step"] for e in entries] == [1, 5, 9, 13, 17] and not watched(one)
    assert entries[0]["layers"] == ["conv", "norm", "fc1", "fc2"]
    for name in ("activation", "gradient", "update"):
        assert all(value > 0 for entry in entries for value in entry[name])
    assert column(entries[0], "dead")["fc2"] is None and 0 <= column(entries[0], "dead")["fc1"] < 1


def test_a_stopped_run_holds_each_watched_step_once(train, monkeypatch):
    resumes_bit_for_bit(Classify, 7, train, ("--model=LeNet", "--watch"), monkeypatch)


def test_a_record_is_cut_back_by_the_steps_of_its_watch(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    record = Record(tmp_path / "metrics.jsonl")
    for step in (1, 5, 9):
        record.log_event({"kind": "watch", "epoch": 1, "step": step, "layers": []})
    assert [e["step"] for e in record.cut_back({"step": 5, "epoch": 0, "watch": 5})] == [1, 5]


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer=LBFGS", "--weight-decay=0"],
        ["--optimizer=Muon"],
        ["--accumulate=3", "--ema=0.9", "--clip-grad=1"],
        ["--amp=bf16", "--optimizer=SGD"],
    ],
    ids=lambda flags: flags[0],
)
def test_watching_any_optimizer(train, flags):
    run = train("--watch", "--max-epoch=1", *[f for f in flags if not f.startswith("--weight")])[1]
    assert all(value > 0 for entry in watched(run) for name in ("activation", "update") for value in entry[name])


def test_frozen_layers_do_not_move(train):
    entry = watched(train("--watch", "--max-epoch=1", "--freeze=conv|norm")[1])[-1]
    update = column(entry, "update")
    assert update["conv"] == update["norm"] == 0 < update["fc1"] and column(entry, "gradient")["conv"] is None


def test_both_nets_of_a_gan(train):
    flags = ["--model=MNISTGAN", "--dataset=MNIST", "--watch", "--max-epoch=1", "--g-every=2", "--batch-size=80"]
    entries = watched(train(*flags)[1])
    layers = entries[0]["layers"]
    assert any(n.startswith("generator.") for n in layers) and any(n.startswith("discriminator.") for n in layers)
    assert all(value is not None for entry in entries for value in entry["update"])
    assert Gan.option_groups == ("gan",)


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_the_first_layer_that_is_not_finite_is_named(command, mnist, tmp_path, on_nan):
    flags = [*FLAGS[1:], f"--train-data-root={mnist}", f"--checkpoint-dir={tmp_path}"]
    words = ["train", f"--model={SICK}:Overflow", *flags, f"--on-nan={on_nan}"]
    code, out, err = command(*words, "--watch")
    told = err if on_nan == "stop" else out
    assert "first not finite in the forward pass: fc1 (Linear); its batch: " in told
    assert code == 1 and "--watch names" not in told
    if on_nan == "stop":
        assert "--watch names the layer" in command(*words)[2]
    else:
        assert len(re.findall("fc1 \\(Linear\\)", out)) == 15  # steps 6 to 20


def test_dead_units_are_told(train):
    out, run = train(f"--model={SICK}:Dying", "--watch", "--print-freq=2")
    assert re.search(r"^warning: fc1: \d\d% of units dead since step 1 ", out, re.MULTILINE)
    assert out.count("dead since") == 1
    assert column(watched(run)[0], "dead")["fc1"] >= 0.75
    assert "warning: " not in train("--watch", "--print-freq=2")[0].replace("warning: the net does not learn", "")


@pytest.mark.parametrize(("ratio", "told"), [(1e-9, "too low"), (2.0, "too high"), (1e-3, None)])
def test_updates_far_out_of_range(ratio, told):
    symptoms = Symptoms()
    entry = {"layers": ["fc"], "activation": [1.0], "gradient": [0.1], "update": [ratio], "dead": [None]}
    for step in range(4):
        symptoms.add(step, 32, 0.1, entry, {"fc": None})
    verdict = symptoms.verdict()
    assert told in verdict if told else verdict is None


def test_a_layer_that_no_gradient_reaches_is_told(train):
    out, _ = train(f"--model={SICK}:CutTrunk", "--watch", "--print-freq=2")
    assert "warning: no gradient reaches conv, norm, which the net uses" in out


def test_the_report_shows_the_layers(train):
    run = train("--watch")[1]
    found = history.read(run, steps=True)
    page = section.build(Subject([found]))
    assert page.count("<table") == 4 and "fc1" in page and "nan" not in page.lower()
    found.others = [{"kind": "watch", "step": 1}, {"kind": "watch", "step": None, "layers": []}]
    assert section.build(Subject([found])) == ""


# --- check --overfit


@pytest.fixture
def check(command, mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(overfit, "SECONDS", 1000)  # a busy machine must not change a verdict

    def run(net, *flags):
        options = [f for f in FLAGS[1:] if not f.startswith(("--max", "--print", "--vis"))]
        data = [] if any(f.startswith("--dataset") for f in flags) else [f"--train-data-root={mnist}"]
        options = [f for f in options if f.split("=")[0] not in {flag.split("=")[0] for flag in flags}]
        words = ["check", f"--model={SICK}:{net}", *options, *data, f"--checkpoint-dir={tmp_path}/runs", *flags]
        code, out, err = command(*words)
        assert not (tmp_path / "runs").exists()
        return code, out, err

    return run


def test_a_healthy_net_learns_a_batch_by_heart(check):
    code, out, err = check("Healthy", "--overfit", "--lr=0.01", "--label-smoothing=0.2", "--mixup=1", "--noise=0.5")
    assert (code, err) == (0, "") and out.endswith("nothing here would stop a run\n")
    assert (
        f"overfit      {overfit.IMAGES} images learnt by heart: loss 2." in out
        and "compare train with val accuracy" in out
    )
    assert "labels       belong to the images: of an image's 10 nearest neighbours " in out


@pytest.mark.parametrize(
    ("net", "flags", "reason"),
    [
        pytest.param(
            *("Healthy", ["--lr=1e-7"], r"the learning rate 1e-07 is too low \(.*\): --lr=0.0\d+ learns"),
            marks=pytest.mark.slow,
        ),
        ("Healthy", ["--lr=30", "--optimizer=SGD"], r"the learning rate 30 is too high \(.*\): --lr=(3|0.3) learns"),
        ("Frozen", [], "no weight of the net learns: requires_grad is False"),
        ("Detached", [], "the net's output is cut off from its weights: by a detach()"),
        ("CutTrunk", ["--lr=0.01"], "no gradient reaches conv, norm: is something detached"),
        ("Zero", [], "all units of conv, fc1, fc2 start with the same weights"),
        ("Dead", [], r"dead from the start: fc1 \(100% of units\)"),
        ("Blind", ["--lr=0.01"], "the net ignores its input"),
        ("Softmax", ["--lr=0.01"], "the outputs are probabilities: the loss has its own softmax"),
        ("Sigmoid", ["--lr=0.01"], "they lie between 0 and 1, as a sigmoid's"),
        ("Rectified", ["--lr=0.01"], "none is below 0, as after a ReLU"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_each_sickness_has_its_name(check, net, flags, reason):
    code, out, _ = check(net, "--overfit", *flags)
    print(out)
    assert code == 1 and re.search(reason.replace("detach()", r"detach\(\)"), out.splitlines()[-1])


def test_images_that_no_net_can_tell_apart(check, tmp_path):
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for k in range(2):
        (root / "ab"[k]).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) if i else np.arange(3072, dtype=np.uint8)
            Image.fromarray(pixels.reshape(32, 32, 3)).save(root / "ab"[k] / f"{i}.png")
    flags = ["--dataset=Folder", f"--train-data-root={root}", "--image-size=32", "--overfit", "--val-fraction=0.1"]
    code, out, _ = check("Healthy", *flags)
    assert code == 1 and "the same image stands under two labels: " in out.splitlines()[-1]
    for path in root.glob("*/*.png"):
        Image.new("RGB", (32, 32), (ord(path.parent.name), int(path.stem), 0)).resize((32, 32)).convert("L").save(path)
    assert "images are of a single value" in check("Healthy", *flags)[1].splitlines()[-1]


def test_shuffled_labels_are_told_from_true_ones():
    rng = np.random.default_rng(0)
    truth = torch.arange(400) % 4
    images = rng.normal(128, 60, (400, 32, 32, 3))
    for image, k in zip(images, truth, strict=True):
        image[8 * k : 8 * k + 8] += 40
    pixels = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    assert labels.agreement(pixels, truth).clear
    for seed in range(5):
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
        assert not labels.agreement(pixels, truth[order]).clear


@pytest.mark.parametrize("flag", ["--overfit", "--lr-find=a.png"])
def test_both_are_for_classifiers(command, flag):
    code, _, err = command("check", "--model=AnimeGAN", flag)
    assert code == 2 and f"{flag.split('=')[0]} is for classifiers" in err


# --- check --lr-find


def test_a_rate_is_found(check, tmp_path):
    path = tmp_path / "lr_find.png"
    code, out, err = check("Healthy", f"--lr-find={path}")
    assert code == 0, err
    rate = float(re.search(r"suggested: --lr=(\S+), a tenth of the rate of the smallest loss", out)[1])
    assert 1e-4 < rate < 1e-1
    assert Image.open(path).size == (840, 480)


def test_the_picture_of_any_title_is_drawn_in_silence(tmp_path, recwarn, capfd):
    path = tmp_path / "a.png"
    lr_find.draw(path, [1e-3, 1e-2], [2.0, 1.0], [2.0, 1.5], None, "网络.py:Net$_^ \u1e9f\U0001f600 on 数据")
    assert not recwarn.list and capfd.readouterr() == ("", "")
    assert Image.open(path).size == (840, 480)


def test_a_net_that_no_rate_helps(check, tmp_path):
    code, out, _ = check("Blind", f"--lr-find={tmp_path}/a.png")
    assert code == 1 and "no learning rate from 1e-07 to 10 lowers the loss" in out.splitlines()[-1]
    code, _, err = check("Healthy", f"--lr-find={tmp_path}/no/a.png")
    assert code == 2 and "--lr-find" in err


def test_the_suggestion_is_a_tenth_of_the_smallest_loss():
    rates = [1e-7 * 10 ** (i / 12.5) for i in range(100)]
    losses = [2.3 - 1.5 * math.exp(-((math.log10(rate) + 1) ** 2)) for rate in rates]
    found = lr_find.suggestion(rates, lr_find.smoothed(losses))
    assert 5e-3 < found < 4e-2
    assert lr_find.suggestion(rates, [2.3] * 100) is None
