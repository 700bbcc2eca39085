"""What `report` says of single images: mistakes, wrong labels, copies in both parts, calibration, ROC."""

import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COUNT, train_in, write_mnist
from PIL import Image, ImageEnhance

import main
from analysis import near_duplicates, probabilities, wrong_labels
from analysis.judged import judge
from analysis.near_duplicates import SIDE, matches
from config import Config
from data.demo import drawing
from data.image_data import ImageData
from engine import metrics
from report import page, subject
from runs import history
from utils.errors import UsageError

FLAGS = ["--model=small_net:SmallNet", "--image-size=16", "--max-epoch=2"]
SECTIONS = ("mistakes", "heatmaps", "wrong_labels", "near_duplicates", "reliability", "roc")


def typed(**flags) -> Config:
    """Options as `report` has them where `flags` were typed."""
    opt = Config(**flags)
    opt._typed = frozenset(flags)
    return opt


def judged_of(run: Path, **flags):
    found = history.read(run)
    return judge(found, typed(**{"num_workers": 0, "amp": "off", "use_gpu": False} | flags)), found


@pytest.fixture(scope="module")
def run(dogcat, tmp_path_factory) -> Path:
    return train_in(tmp_path_factory.mktemp("mistakes"), *FLAGS, f"--train-data-root={dogcat}/train")


@pytest.fixture
def named(monkeypatch):
    """Code of this folder, which a run names, is named again."""
    return {"model": "small_net:SmallNet"}


# ---- the same numbers as `val`


def test_the_numbers_are_those_of_val_and_of_the_record(run, named, capsys):
    judged, found = judged_of(run, **named)
    mine = metrics.compute(judged.logits, judged.labels)
    theirs = main.val(load_path=str(run), num_workers="0", **named)
    assert {name: mine[name] for name in theirs} == theirs
    assert mine["loss"] == found.best["val_loss"] and mine["accuracy"] == found.best["val_accuracy"]
    assert judged.losses.mean() == pytest.approx(mine["loss"], rel=1e-6)
    assert (judged.predicted == judged.labels.numpy()).mean() == pytest.approx(mine["accuracy"])


def test_each_prediction_belongs_to_its_image(run, named):
    """The loader shuffles: an image alone must get the logits that stand at its place."""
    judged, _ = judged_of(run, **named)
    assert [path.name.startswith("dog") for path in judged.paths] == judged.labels.bool().tolist()
    for index in (0, 3, len(judged) - 1):
        assert judged.pixels(index).shape == (16, 16, 3)
        images = judged.task.preprocess.normalize(torch.from_numpy(judged.pixels(index).copy())[None])
        with torch.inference_mode():
            logits = judged.task.net.eval()(images)
        assert torch.allclose(logits[0], judged.logits[index], atol=1e-5)


@pytest.mark.parametrize("cache", ["auto", "off"])
@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_read_are_left_out(run, named, dogcat, tmp_path, cache, workers):
    whole, _ = judged_of(run, **named)
    root = tmp_path / "train"
    shutil.copytree(dogcat / "train", root)
    broken = whole.paths[2].name
    (root / broken).write_bytes(b"no image")
    own = named | {"train_data_root": str(root), "cache": cache, "num_workers": workers}
    with pytest.raises(UsageError, match=broken):
        judged_of(run, **own)
    judged, _ = judged_of(run, **own, on_bad_image="skip")
    assert sorted(path.name for path in judged.paths) == sorted(
        path.name for path in whole.paths if path.name != broken
    )
    places = [[path.name for path in whole.paths].index(path.name) for path in judged.paths]
    assert torch.allclose(judged.logits, whole.logits[places], atol=1e-5)
    assert any(broken in note for note in judged.notes) and any("not those" in note for note in judged.notes)


def test_without_data_or_checkpoint_it_is_one_line(run, named, tmp_path, capsys):
    with pytest.raises(UsageError, match="nowhere"):
        judged_of(run, **named, train_data_root=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="add --model=small_net:SmallNet"):
        judged_of(run)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.pth"))
    with pytest.raises(UsageError, match="neither best.pth nor last.pth"):
        judged_of(copy, **named)


def test_a_gan_has_no_such_sections(dogcat, tmp_path):
    flags = ["--model=AnimeGAN", "--ngf=4", "--ndf=4", "--image-size=96"]
    found = history.read(train_in(tmp_path, *flags, f"--train-data-root={dogcat}/train"))
    with pytest.raises(UsageError, match="AnimeGAN is no classifier"):
        judge(found, typed(num_workers=0))


# ---- wrong labels


def test_confident_learning_by_hand():
    """Thresholds: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.9 + 0.7 + 0.8) / 3 = 0.8, rounded down."""
    first = np.array([0.9, 0.8, 0.1, 0.1, 0.3, 0.2])
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = wrong_labels.find(np.stack([first, 1 - first], axis=1), labels)
    assert [(one.index, one.suggested) for one in found] == [(2, 1)]
    assert wrong_labels.find(np.stack([first, 1 - first], axis=1)[:2], labels[:2]) == []


def test_planted_wrong_labels_come_first():
    """A net that is sure of 95% of the images; 5% of the labels are moved to another class."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 2000)
    logits = rng.normal(0, 1, (2000, 10))
    logits[np.arange(2000), truth] += 6
    planted = rng.choice(2000, 100, replace=False)
    labels = truth.copy()
    labels[planted] = (truth[planted] + rng.integers(1, 10, 100)) % 10
    found = wrong_labels.find(torch.from_numpy(logits).softmax(dim=1).numpy(), labels)
    assert len({one.index for one in found[:50]} & set(planted.tolist())) == 50
    hits = [one for one in found if one.index in set(planted.tolist())]
    assert len(hits) >= 80 and len(hits) >= 0.95 * len(found)
    assert np.mean([truth[one.index] == one.suggested for one in hits]) > 0.95


def test_a_class_without_images_and_a_single_image():
    probabilities = np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    assert all(one.suggested != 2 for one in wrong_labels.find(probabilities, np.array([0, 0, 1])))
    assert wrong_labels.find(probabilities[:1], np.array([0])) == []


def test_the_csv_names_files_labels_and_probabilities(run, named, tmp_path):
    judged, _ = judged_of(run, **named)
    suspects = [wrong_labels.Suspect(1, 0), wrong_labels.Suspect(0, 1)]
    wrong_labels.write(tmp_path / "w.csv", judged, suspects)
    with (tmp_path / "w.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == wrong_labels.HEAD and [row[0] for row in rows] == [str(judged.paths[i]) for i in (1, 0)]
    assert rows[0][2] == "cat" and float(rows[0][4]) == judged.probabilities[1, 0] and rows[1][5] == "2"


# ---- copies in both parts


def changed(image: Image.Image, how: str) -> Image.Image:
    if how == "smaller":
        return image.resize((round(image.width * 0.8), round(image.height * 0.8)))
    if how == "compressed":
        image.convert("RGB").save(file := io.BytesIO(), "jpeg", quality=60)
        return Image.open(file)
    return ImageEnhance.Brightness(image).enhance({"brighter": 1.05, "darker": 0.95}[how])


@pytest.mark.parametrize("how", ["smaller", "compressed", "brighter", "darker"])
def test_planted_copies_are_found_and_nothing_else(tmp_path, how):
    drawing.write(tmp_path, train_per_class=30, test=1)
    files = sorted((tmp_path / "train").iterdir())
    val = [(path, int("dog" in path.name)) for path in files[::3]]
    train = [(path, int("dog" in path.name)) for path in files if (path, 0) not in val and (path, 1) not in val]
    dataset = ImageData.__new__(ImageData)
    assert near_duplicates.find(dataset, val, train).pairs == []
    for number in (2, 5, 11):
        changed(Image.open(val[number][0]), how).save(copy := tmp_path / f"{number}.png")
        train.insert(number, (copy, 0))
    found = near_duplicates.find(dataset, val, train)
    assert {pair.val: train[pair.train][0].name for pair in found.pairs} == {n: f"{n}.png" for n in (2, 5, 11)}
    assert (found.val, found.train) == (len(val), len(train))


def test_simple_shapes_are_no_copies_of_each_other_but_a_copy_is():
    """Bars that differ in slope, place, width, length and bend, as the digit 1 does."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]

    def bars(count: int) -> np.ndarray:
        low, high = [-0.3, 13, 1, 8, -0.02], [0.3, 19, 3, 14, 0.02]
        slope, place, width, length, bend = rng.uniform(low, high, (count, 5)).T[..., None, None]
        away = (x - place - slope * (y - 16) - bend * (y - 16) ** 2) / width
        return (255 * np.exp(-(away**2)) * (abs(y - 16) < length)).astype(np.uint8)

    train, val = bars(1000), bars(60)
    best = (near_duplicates.differences(val, 16) @ near_duplicates.differences(train, 16).T).amax(dim=1)
    assert (best >= near_duplicates.ALIKE).sum() > 45 and len(matches(val, train)) < 20
    assert [(pair.val, pair.train) for pair in matches((train[7:8] * 0.95).astype(np.uint8), train)] == [(0, 7)]


def test_plain_and_unreadable_images_are_passed_over(tmp_path):
    grey = np.full((4, SIDE, SIDE), 130, np.uint8)
    assert matches(grey, grey) == [] and matches(grey[:0], grey) == [] and matches(grey, grey[:0]) == []
    (tmp_path / "a.jpg").write_bytes(b"no image")
    found = near_duplicates.find(ImageData.__new__(ImageData), [(tmp_path / "a.jpg", 0)], [(tmp_path / "b.jpg", 0)])
    assert found == near_duplicates.Duplicates([], 0, 0)


# ---- calibration and ROC


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_calibration_and_roc_are_those_of_the_record(classes, scale):
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(300, classes, generator=generator)
    labels = torch.where(torch.rand(300, generator=generator) < 0.6, logits.argmax(dim=1), torch.arange(300) % classes)
    found = probabilities.reliability(logits, labels)
    assert found.error == pytest.approx(metrics.calibration_error(logits, labels), abs=1e-6)
    assert found.count.sum() == 300 and len(found.count) <= 15
    curves = probabilities.roc(logits, labels, 10)
    assert len(curves) == (1 if classes == 2 else classes)
    assert np.mean([curve.area for curve in curves]) == pytest.approx(metrics.roc_auc(logits, labels), abs=1e-6)
    for curve in curves:
        assert np.trapezoid(curve.true_positives, curve.false_positives) == pytest.approx(curve.area, abs=1e-5)


def test_one_image_and_a_class_without_images_have_no_curve():
    assert probabilities.roc(torch.zeros(1, 3), torch.tensor([1]), 10) == []
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert {curve.label for curve in probabilities.roc(logits, torch.arange(20) % 3, 10)} == {0, 1, 2}
    assert len(probabilities.roc(logits, torch.arange(20) % 3, 2)) == 2
    assert probabilities.reliability(torch.zeros(1, 3), torch.tensor([1])).count.tolist() == [1]


# ---- the page


def sections_of(run: Path, **flags) -> str:
    found = history.find((run,), run.parent)
    about = subject.make(found, typed(**{"num_workers": 0, "amp": "off", "use_gpu": False} | flags))
    assert about.judged is not None, about.why_not
    return page.build(about)[0]


def test_the_report_has_the_sections_and_the_terminal_says_what_was_found(run, named, command):
    code, out, err = command("report", run, *(f"--{name}={value}" for name, value in named.items()), "--num-workers=0")
    assert code == 0, err
    text = (run / "report.html").read_text()
    assert all(f'id="{name}"' in text for name in SECTIONS)
    assert "compared with" in out and "label" in out and "wrong_labels.csv" in [path.name for path in run.iterdir()]
    assert len(text) < 1_000_000 and not re.search(r"(src|href)=.?http|url\(.?http", text)


def test_grey_digits_with_planted_copies_and_two_labels(tmp_path, named):
    """A set of arrays whose first validation image is a training image under another label."""
    root = write_mnist(tmp_path / "mnist", 120, 30)
    raw = root / "MNIST" / "raw"
    train, val = (raw / f"{part}-images-idx3-ubyte" for part in ("train", "t10k"))
    content = bytearray(val.read_bytes())
    content[16 : 16 + 784] = train.read_bytes()[16 + 3 * 784 : 16 + 4 * 784]
    val.write_bytes(content)
    run = train_in(
        tmp_path / "runs",
        "--model=small_net:SmallNet",
        "--image-size=28",
        "--dataset=MNIST",
        f"--train-data-root={root}",
    )
    judged, _ = judged_of(run, **named)
    pairs = judged.duplicates.pairs
    first = next(i for i, path in enumerate(judged.paths) if path.name == "000000")
    assert [(pair.val, pair.train) for pair in pairs] == [(first, 3)]
    assert judged.pixels(0).shape == (28, 28, 3)
    text = sections_of(run, **named)
    assert "1 of 30 validation images nearly equal one of 120 training images, 1 under another label" in text
    assert all(f'id="{name}"' in text for name in SECTIONS)


def test_a_net_without_maps_lacks_the_heat_maps_alone(dogcat, tmp_path):
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n\n\nclass Flat(nn.Sequential):\n    def __init__(self, num_classes: int) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))\n"
    )
    model = f"{tmp_path}/flat.py:Flat"
    flags = [f"--model={model}", "--image-size=16", f"--train-data-root={dogcat}/train"]
    text = sections_of(train_in(tmp_path / "runs", *flags), model=model)
    assert "No heat maps: " in text and 'id="roc"' in text and 'id="mistakes"' in text


def test_names_from_outside_are_escaped(tmp_path):
    root = tmp_path / "data"
    for name in ("<b>a", "b&c"):
        (root / name).mkdir(parents=True)
        for i in range(COUNT):
            noise = np.random.default_rng([i, len(name)]).integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"<i>{i}.png")
    run = train_in(
        tmp_path / "runs", "--model=LeNet", "--dataset=Folder", "--image-size=32", f"--train-data-root={root}"
    )
    text = sections_of(run)
    assert "<b>a" not in text and "<i>" not in text.partition("<body>")[2] and "&lt;b&gt;a" in text
