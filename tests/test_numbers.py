"""Numbers of training and evaluation against values that are worked out in another way."""

import csv
import json
import unicodedata
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import picture, unless_given
from PIL import Image
from test_recipes import CPU, Small
from torch import nn

from config import Config
from data.augment import Augment
from data.loaders import Batch, EpochBatchSampler, Loader
from data.transforms import Preprocess
from engine import metrics
from engine.schedules import Schedule
from engine.tasks.classify import Classify
from runs import results
from utils import checkpoints

getcontext().prec = 200
FLAGS = ["--model=small_net:SmallNet", "--image-size=16", "--batch-size=8", "--max-epoch=2", "--num-workers=0"]
FLAGS += ["--use-gpu=false", "--amp=off", "--vis-port=None"]


# ---- one step


def step(accumulate: int, **options) -> list[torch.Tensor]:
    """How the weights of a net without BatchNorm change in one step of SGD on an unbalanced batch."""
    torch.manual_seed(0)
    net = Small(3)
    opt = Config(optimizer="SGD", momentum=0, weight_decay=0, lr=0.1, accumulate=accumulate, **options)
    labels = [0] * 11 + [1] * 4 + [2]
    task = Classify(net, ["a", "b", "c"], Preprocess(16), CPU, opt, [(Path(), k) for k in labels * 9])
    images = torch.randint(0, 256, (16, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    before = [p.detach().clone() for p in net.parameters()]
    torch.manual_seed(0)  # as the loop seeds each step
    task.train_step(Batch(images, torch.tensor(labels), torch.arange(16)))
    return [p.detach() - b for p, b in zip(net.parameters(), before, strict=True)]


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"mixup": 0.4}, {"cutmix": 1.0}], ids=str)
@pytest.mark.parametrize("balance", ["none", "loss"])
@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_micro_batches_add_up_to_the_step_of_the_whole_batch(parts, balance, options):
    for whole, mine in zip(step(1, balance=balance, **options), step(parts, balance=balance, **options), strict=True):
        assert (mine - whole).norm() <= 1e-4 * whole.norm()


def test_the_weighted_loss_is_that_of_the_formula():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), [0, 0, 1]
    weights = [9 / 10, 9 / 8]  # for 5 and 4 images of 9
    loss = nn.CrossEntropyLoss(torch.tensor(weights))(logits, torch.tensor(labels))
    own = [weights[k] * (np.log(np.exp(row).sum()) - row[k]) for row, k in zip(logits.tolist(), labels, strict=True)]
    assert loss.item() == pytest.approx(sum(own) / (weights[0] * 2 + weights[1]))


# ---- metrics


def auc(scores: list, positive: list[bool]) -> float:
    """How often a positive image scores above a negative one; ties count half."""
    ours = [s for s, p in zip(scores, positive, strict=True) if p]
    theirs = [s for s, p in zip(scores, positive, strict=True) if not p]
    return sum((a > b) + (a == b) / 2 for a in ours for b in theirs) / (len(ours) * len(theirs))


def log_odds(row: list[float], k: int) -> Decimal:
    powers = [Decimal(value).exp() for value in row]
    return (powers[k] / (sum(powers) - powers[k])).ln()


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("scale", [0.1, 3, 20, 60])
def test_the_auc_of_confident_nets(scale, classes):
    torch.manual_seed(0)
    labels = torch.arange(35) % classes
    logits = torch.randn(35, classes) * scale
    logits[torch.arange(35), labels] += scale
    rows = logits.tolist()
    areas = [auc([log_odds(row, k) for row in rows], (labels == k).tolist()) for k in range(classes)]
    expected = areas[1] if classes == 2 else sum(areas) / classes
    assert metrics.roc_auc(logits, labels) == pytest.approx(expected, abs=1e-6)


def test_the_auc_where_every_probability_is_one():
    difference = torch.cat([torch.linspace(18, 22, 20), torch.linspace(30, 34, 20)])
    logits = torch.stack([torch.zeros(40), difference], dim=1)
    assert metrics.roc_auc(logits, torch.arange(40) // 20) == 1


@pytest.mark.parametrize("top", [0.2, 5.0, 17.0, 60.0, 500.0])
def test_the_calibration_error_by_hand(top):
    """Two images: one surely wrong, one rightly with a confidence of 0.5236."""
    logits = torch.tensor([[top, 0.0], [0.0, 0.0945]])
    sure, other = 1 / (1 + np.exp(-top)), 1 / (1 + np.exp(-0.0945))
    same_bin = int(sure * 15) == int(other * 15)
    expected = abs(sure + other - 1) / 2 if same_bin else (sure + 1 - other) / 2
    assert metrics.calibration_error(logits, torch.tensor([1, 1])) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("right", [[True, True], [False, False], [True, False]])
def test_a_confidence_of_one_is_in_the_last_bin(right):
    logits = torch.tensor([[200.0, 0.0], [3.2, 0.0]])  # both in the last of 15 bins: 1 and 0.961
    labels = torch.tensor([0 if r else 1 for r in right])
    expected = abs((1 + 1 / (1 + np.exp(-3.2))) / 2 - np.mean(right))
    assert metrics.calibration_error(logits, labels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scale", [1, 17, 30])
def test_the_csv_keeps_the_order(scale, tmp_path):
    logits = torch.stack([torch.zeros(50), scale + torch.arange(50) / 25], dim=1)
    batch = Batch(torch.zeros(50), torch.zeros(50), torch.arange(50))
    results.write_csv(tmp_path / "a.csv", [str(i) for i in range(50)], [(batch, logits)], ["cat", "dog"])
    values = [float(row["label"]) for row in csv.DictReader((tmp_path / "a.csv").open())]
    assert values == sorted(values) and len(set(values)) == 50


@pytest.mark.parametrize("classes", [["cat", "dog"], ["a", "b", "c"]])
def test_the_csv_with_logits(classes, tmp_path):
    logits = torch.randn(4, len(classes)) * 100
    batch = Batch(torch.zeros(4), torch.zeros(4), torch.arange(4))
    results.write_csv(tmp_path / "a.csv", ["1", "2", "3", "4"], [(batch, logits)], classes, with_logits=True)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [[float(row[f"logit {name}"]) for name in classes] for row in rows] == logits.tolist()


# ---- drawn again and again


def sampled_loader(tmp_path, augment: Augment | None, preprocess: Preprocess) -> Loader:
    """A noisy image that is drawn 15 times in an epoch, beside one that is never drawn."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    items = [(tmp_path / f"{i:02d}.png", 0) for i in range(16)]
    return Loader(items, preprocess, EpochBatchSampler(16, 4, 3, [1.0] + [0.0] * 15), augment=augment)


CHANGES = [{"shift": 3}, {"rotate": 30}, {"cutout": 5}, {"noise": 0.1}]


@pytest.mark.parametrize("change", [*CHANGES, {"flip": True}, {}], ids=str)
def test_an_image_drawn_several_times_is_augmented_anew(change, tmp_path):
    crops = Preprocess(16, min_crop=0.3 if not change else 1.0)
    with sampled_loader(tmp_path, Augment(3, 16, **{"flip": False} | change), crops) as loader:
        epochs = [torch.cat([batch.images for batch in loader.set_epoch(epoch)]) for epoch in (0, 0, 1)]
        rest = torch.cat([batch.images for batch in loader.set_epoch(0, 8)])
    kinds = [len({image.numpy().tobytes() for image in images}) for images in epochs]
    assert kinds[0] == 2 if change.get("flip") else kinds[0] >= 12
    assert torch.equal(epochs[0], epochs[1]) and torch.equal(epochs[0][8:], rest)
    assert not torch.equal(epochs[0], epochs[2])


# ---- learning rates


@pytest.mark.parametrize("losses", [[3, 4, 5, 6, 5], [5, 4, 3, 2, 1], [3, 4, 4, 3, 3.5]])
def test_plateau_waits_for_the_end_of_the_warm_up(losses):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    schedule = Schedule(optimizer, "plateau", 1.0, 0.5, warmup=0.5)
    expected, before = 1.0, float("inf")
    for epoch, loss in enumerate(losses):
        schedule.set((epoch + 0.9) / 6)
        schedule.end_epoch(loss)
        expected *= 0.5 if loss > before and (epoch + 0.9) / 6 >= 0.5 else 1
        before = loss
    schedule.set(0.99)
    assert optimizer.param_groups[0]["lr"] == expected


@pytest.fixture
def start(command, dogcat, tmp_path):
    """`train` on the small images in this process; returns (code, stdout, stderr, run folder)."""

    def run(*flags):
        resumes = any("--resume" in flag for flag in flags)
        new = [FLAGS[0]] if resumes else unless_given([*FLAGS, f"--train-data-root={dogcat}/train"], flags)
        out = command("train", *new, f"--checkpoint-dir={tmp_path / 'runs'}", *flags)
        return *out, next((tmp_path / "runs").glob("*"), None)

    return run


def test_a_prolonged_cosine_says_its_learning_rate(start):
    run = start("--scheduler=cosine", "--lr=0.01")[3]
    code, out, err, _ = start(f"--resume={run}", "--max-epoch=8")
    first = next(e for e in map(json.loads, (run / "metrics.jsonl").open()) if e["kind"] == "step" and e["epoch"] == 3)
    assert code == 0, err
    assert "now\n" in out and f"{first['lr']:.3g} now" in out
    assert "learning rate:" not in start(f"--resume={run}", "--max-epoch=8")[1]


# ---- validation


def explode(monkeypatch, at: int, value: float) -> None:
    """After so many steps, the weights are `value`: their next output is not finite."""
    original, calls = Classify.train_step, []

    def train_step(self, batch):
        done = original(self, batch)
        calls.append(1)
        if len(calls) == at:
            with torch.no_grad():
                self.net.fc.weight.fill_(value)
        return done

    monkeypatch.setattr(Classify, "train_step", train_step)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("flags", [[], ["--on-nan=skip"], ["--save-every=1"], ["--ema=0.5"]], ids=str)
def test_a_last_step_that_blows_up_ends_the_run(value, flags, start, monkeypatch):
    """8 images to validate, 16 to train: 2 steps an epoch."""
    if value == 3e38 and "--ema=0.5" in flags:
        pytest.skip("the average is not touched: the next step finds it")
    explode(monkeypatch, 4, value)
    code, _, err, run = start("--max-epoch=3", *flags)
    assert code == 1 and "not finite" in err and err.count("\n") == 1
    assert f"--load-path={run / 'best.pth'}" in err
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    best = checkpoints.read(run / "best.pth")
    assert best["trainer"]["epoch"] == 1
    monkeypatch.undo()
    for path in run.glob("*.pth"):
        assert all(tensor.isfinite().all() for tensor in checkpoints.read(path)["net"].values())
    if not (value == 3e38 and "--save-every=1" in flags):  # finite weights that were saved by their step
        code, _, err, _ = start(f"--resume={run}", "--max-epoch=2")
        assert code == 0, err


def test_json_has_no_nan(start, tmp_path, command, monkeypatch, dogcat):
    (tmp_path / "m.py").write_text("def odd(logits, labels):\n    return float('nan')\n")
    run = start(f"--metrics={tmp_path}/m.py:odd")[3]
    lines = (run / "metrics.jsonl").read_text()
    assert '"val_odd": null' in lines and "NaN" not in lines
    code, _, err = command("val", f"--load-path={run}", "--model=small_net:SmallNet", f"--metrics={tmp_path}/m.py:odd")
    assert code == 0, err
    assert json.loads((run / "val_best.json").read_text())["odd"] is None


# ---- a run is what its checkpoint says


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 5), ("val_fraction", 0.5), ("freeze", "conv"), ("optimizer", "SGD")]
)
def test_an_edited_config_does_not_change_what_is_fixed(name, value, start):
    run = start()[3]
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {name: value}))
    code, _, err, _ = start(f"--resume={run}", "--max-epoch=4")
    assert code == 2 and f"says {name} {value}, but its checkpoints were trained with {config[name]}" in err
    assert err.count("\n") == 1


# ---- which images were evaluated


@pytest.fixture
def parted(tmp_path) -> Path:
    """train, val and test with two classes each."""
    for part, count in (("train", 12), ("val", 4), ("test", 6)):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            (tmp_path / "parted" / part / name).mkdir(parents=True)
            for i in range(count):
                picture(tmp_path / "parted" / part / name / f"{i}.png", colour)
    return tmp_path / "parted"


def test_val_on_every_split(parted, dogcat, command, tmp_path):
    words = [*FLAGS, "--dataset=Folder", f"--train-data-root={parted}", f"--checkpoint-dir={tmp_path / 'runs'}"]
    assert command("train", *words)[0] == 0
    run = next((tmp_path / "runs").glob("*"))
    judge = ["val", f"--load-path={run}", "--model=small_net:SmallNet"]
    for split, count, words in (
        ("val", 8, "validation"),
        ("train", 24, "training"),
        ("test", 12, "test"),
        ("all", 44, "labelled"),
    ):
        code, out, err = command(*judge, f"--split={split}")
        assert code == 0 and f"on {count} {words} images of {parted}" in out, err
    own = json.loads((run / "val_best.json").read_text())
    assert own["images"] == 8 and own["data"] | {"fingerprint": ""} == {
        "dataset": "Folder",
        "root": str(parted),
        "split": "val",
        "fingerprint": "",
    }
    assert own["options"]["flip_test"] is False
    found = {json.loads(path.read_text())["data"]["split"] for path in run.glob("val_best_*.json")}
    assert found == {"train", "test", "all"}


def test_other_images_do_not_overwrite_the_figures_of_the_run(start, command, tmp_path):
    run = start()[3]
    judge = ["val", f"--load-path={run}", "--model=small_net:SmallNet"]
    assert command(*judge)[0] == 0
    before = (run / "val_best.json").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    for i in range(5):
        picture(other / f"cat.{i}.jpg")
        picture(other / f"dog.{i}.jpg")
    code, out, err = command(*judge, f"--train-data-root={other}", "--split=all")
    assert code == 0 and "on 10 labelled images" in out, err
    assert (run / "val_best.json").read_bytes() == before
    data = [json.loads(path.read_text())["data"] for path in run.glob("val_best_all_*.json")]
    assert [d["root"] for d in data] == [str(other)]
    code, _, err = command(*judge, "--split=test")
    assert code == 2 and "has no test part" in err


# ---- the table


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        ["猫", "狗", "小熊猫"],
        ["golden_retriever", "golden_eagle", "cat"],
        ["短毛猫的名字很长", "短毛猫的名字不长", "x"],
        [f"class_with_number_{k}" for k in range(12)],
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    ],
)
def test_columns_stand_under_each_other_and_names_are_told_apart(names):
    k = len(names)
    task = Classify(Small(k), names, Preprocess(16), CPU, Config())
    labels = torch.arange(4 * k) % k
    lines = task.messages(task).table(metrics.compute(torch.randn(4 * k, k), labels)).splitlines()
    head, *rows = lines[-k - 1 :]
    width = {"F": 1, "W": 2}
    columns = [sum(width.get(unicodedata.east_asian_width(c), 1) for c in line) for line in rows]
    assert len(set(columns)) == 1
    heads = head.partition("predicted: ")[2].split()
    assert len(heads) == len(set(heads)) == k
    assert (heads == names) == (not names[0].startswith("class_with"))  # else too wide
    for name, row, column in zip(names, rows, heads, strict=True):
        assert name in row and (column == name or row.startswith(f"{column} "))
