"""explain and features: the numbers against autograd by hand and closed forms; what is written, and what is refused."""

import csv
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, train_in
from PIL import Image
from small_net import SmallNet
from torch import nn

import main
import models
from analysis import explain, gradcam, layers, projection
from analysis.features import Source, known_labels
from config import Config
from data.batch import Batch
from data.transforms import Preprocess
from engine.device import Device
from engine.tasks.classify import Classify
from report.sections import features as section
from report.subject import Subject
from runs import history
from utils.errors import UsageError

MODEL = "small_net:SmallNet"
FLAGS = [f"--model={MODEL}", "--image-size=16"]


@pytest.fixture(scope="module")
def run(dogcat, tmp_path_factory) -> Path:
    return train_in(tmp_path_factory.mktemp("explain"), *FLAGS, f"--train-data-root={dogcat}/train")


@pytest.fixture
def own(run, tmp_path) -> Path:
    """A copy of the run, to be written into."""
    return Path(shutil.copytree(run, tmp_path / "runs" / "own"))


def task(net: nn.Module, size: int = 16, classes: int = 3, amp: torch.dtype | None = None, **options) -> Classify:
    models.building.set_facts(net, classes, 3)
    device = Device(torch.device("cpu"), amp, torch.channels_last)
    return Classify(net, list("abcdefgh"[:classes]), Preprocess(size), device, Config(**options))


def use(run: Path) -> list[str]:
    return [f"--load-path={run}", *FLAGS[:1]]


def noise(count: int, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """Maps, their mean, a matrix: there the gradient of a logit is its row of the matrix over the positions."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean(dim=(2, 3)))


def normed(raw: torch.Tensor) -> np.ndarray:
    return (raw / raw.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)).detach().numpy()


def test_a_linear_nets_map_is_its_class_activation_map():
    """Zhou et al. 2016 (arXiv:1512.04150): for such a net Grad-CAM is ReLU(sum of w_kc A_c) over the positions."""
    torch.manual_seed(0)
    one, images = task(Linear()), noise(4)
    maps = one.net.conv(layers.inputs(one, images))
    for k in range(3):
        classes = torch.full((4,), k)
        done = gradcam.forward(one, images, "conv")
        expected = torch.einsum("c,nchw->nhw", one.net.fc.weight[k], maps).relu() / 64
        assert torch.allclose(done.maps(classes), expected, atol=1e-7) and expected.any()
        found = gradcam.heatmaps(one, images, classes)
        assert found.shape == (4, 8, 8) and found.dtype == np.float32
        assert np.allclose(found, normed(expected), atol=1e-5)


@pytest.mark.parametrize(("name", "layer", "size"), [("resnet18", "layer3", 32), ("CifarNet", "blocks.2", 32)])
def test_any_net_as_by_autograd(name, layer, size):
    """Also where the next layer works in place, and the task runs in bfloat16."""
    torch.manual_seed(0)
    one, images = task(models.build(name, 3, size), size, amp=torch.bfloat16), noise(3, size)
    one.net.eval()
    kept = []
    handle = layers.find(one.net, layer).register_forward_hook(lambda module, given, output: kept.append(output))
    logits = one.net(layers.inputs(one, images))
    handle.remove()
    for k in range(3):
        (gradient,) = torch.autograd.grad(logits[:, k].sum(), kept[0], retain_graph=True)
        expected = (gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()
        found = gradcam.forward(one, images, layer).maps(torch.full((3,), k))
        assert torch.allclose(found, expected, atol=1e-6)
        assert np.allclose(gradcam.heatmaps(one, images, torch.full((3,), k), layer), normed(expected), atol=1e-4)
    for parameter in one.net.parameters():
        parameter.requires_grad = False
    again = gradcam.forward(one, images, layer).maps(torch.full((3,), 2))
    assert torch.allclose(again, expected, atol=1e-6)  # a frozen net


class InPlace(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu_().mean(dim=(2, 3)))


def test_the_maps_are_what_the_layer_gave_before_others_worked_in_place():
    torch.manual_seed(0)
    one, images = task(InPlace()), noise(2)
    before = one.net.conv(layers.inputs(one, images))
    weights = (one.net.fc.weight[1][:, None, None] * (before > 0) / 64).mean(dim=(2, 3), keepdim=True)
    found = gradcam.forward(one, images, "conv")
    assert torch.allclose(found.output, before)
    assert torch.allclose(found.maps(torch.ones(2, dtype=torch.long)), (weights * before).sum(dim=1).relu(), atol=1e-7)


@pytest.mark.parametrize(
    ("name", "size", "layer", "shape"),
    [
        ("resnet18", 64, "layer4", (2, 2)),
        ("resnet18", 32, "layer3", (2, 2)),  # layer4 gives one place
        ("squeezenet1_1", 64, "classifier.2", (3, 3)),
        ("vit_b_32", 96, "encoder.layers.encoder_layer_11.ln_1", (3, 3)),  # behind it only the class token counts
        ("swin_t", 64, "permute", (2, 2)),
    ],
)
def test_the_layer_that_is_looked_at(name, size, layer, shape):
    torch.manual_seed(0)
    net = models.build(name, 3, size)
    for head in [m for m in net.modules() if isinstance(m, nn.Linear)][-1:]:
        nn.init.normal_(head.weight, std=0.1)  # ViT's is 0 at first
    one = task(net, size)
    assert layers.last_map(one, noise(1, size)) == layer
    found = gradcam.heatmaps(one, noise(2, size))
    assert found.shape == (2, *shape) and found.min() >= 0 and set(found.max(axis=(1, 2))) <= {0, 1}


def test_tokens_and_channels_last():
    tokens = torch.arange(2 * 10 * 5).reshape(2, 10, 5).float()
    assert torch.equal(layers.as_map(tokens)[1, :, 2, 1], tokens[1, 1 + 3 * 2 + 1])  # row 2, column 1, the class token
    assert torch.equal(layers.as_map(tokens[:, :9])[0, :, 0, 2], tokens[0, 2])
    assert layers.as_map(torch.zeros(2, 11, 5)) is None  # two more tokens than a grid has
    assert layers.as_map(torch.zeros(2, 7, 7, 96)).shape == (2, 96, 7, 7)
    assert layers.as_map(torch.zeros(2, 96, 7, 7)).shape == (2, 96, 7, 7)
    assert layers.as_map(torch.zeros(2, 96, 1, 1)) is None and layers.as_map((tokens,)) is None


class Distilled(nn.Module):
    """A patch embedding with two further tokens, as DeiT's."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([tokens.new_zeros(len(x), 2, 8), tokens], dim=1))
        return self.head(tokens.mean(dim=1))


def test_tokens_that_are_no_grid_are_refused_unless_a_layer_of_maps_is_named():
    torch.manual_seed(0)
    one = task(Distilled())
    with pytest.raises(UsageError, match="layer norm gives tokens that are no square grid .*--layer=NAME"):
        gradcam.heatmaps(one, noise(1))
    assert gradcam.heatmaps(one, noise(1), layer="patch").shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("conf", "no such layer; it consists of conv, fc. Did you mean conv?"),
        ("fc", r"no map of the image, but \(2, 3\)"),
    ],
)
def test_wrong_layers(layer, said):
    with pytest.raises(UsageError, match=said):
        gradcam.heatmaps(task(Linear()), noise(2), layer=layer)


def test_overlay():
    image, heat = np.full((8, 8, 3), 100, np.uint8), np.zeros((2, 2), np.float32)
    assert (gradcam.overlay(image, heat) == 100).all()
    heat[0, 0] = 1
    drawn = gradcam.overlay(image, heat).astype(int)
    assert drawn.shape == (8, 8, 3) and (drawn[7, 7] == 100).all()
    assert abs(drawn[0, 0] - (0.35 * 100 + 0.65 * np.array([253, 231, 37]))).max() <= 1
    assert gradcam.overlay(image[:, :, :1], heat).shape == (8, 8, 3)


def test_explain_writes_a_picture_for_each_image(run, dogcat, tmp_path, command):
    images = sorted((dogcat / "train").iterdir())[:3]
    looks = tmp_path / "looks"
    code, out, err = command("explain", *use(run), *map(str, images), f"--heatmap-folder={looks}")
    assert code == 0, err
    rows = main.explain(dogcat / "test1", load_path=run, model=MODEL, heatmap_folder=looks, batch_size=4)
    labelled = main.test(
        load_path=run, model=MODEL, test_data_root=dogcat / "test1", result_file=tmp_path / "r.csv", amp="off"
    )
    assert len(rows) == 10 and len(list(looks.iterdir())) == 13
    for (path, name, odds, target), (number, dog) in zip(rows, labelled, strict=True):
        assert Path(path).stem == number and Path(target).stem == number
        assert odds == pytest.approx(dog if name == "dog" else 1 - dog, abs=1e-5) and odds >= 0.5
        assert Image.open(target).size == (3 * 224 + 2 * 4, 224 + 16)
    lines = out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("cat.0.jpg: ")
    assert lines[0].endswith(f"% , looked at norm (7 x 7); {looks / 'cat.0.png'}".replace(" ,", ","))


def test_a_blank_map_is_told(own, dogcat, command, tmp_path):
    """Where nothing speaks for a class there is no map: its weights are 0."""
    checkpoint = torch.load(own / "best.pth", weights_only=True)
    checkpoint["net"]["fc.weight"].zero_()
    torch.save(checkpoint["net"], tmp_path / "w.pth")
    words = [f"--load-path={tmp_path}/w.pth", *FLAGS, str(dogcat / "test1/1.jpg"), f"--heatmap-folder={tmp_path}/h"]
    code, out, err = command("explain", *words)
    assert code == 0, err
    assert "the map of norm (7 x 7) is blank: no region speaks for " in out
    shown = np.asarray(Image.open(tmp_path / "h" / "1.png"))[16:]
    left, right = shown[:, :224].mean(axis=2), shown[:, 228:452]
    assert np.abs(left[:, :, None] - right).max() <= 1  # the image in grey, without any colour


def test_names_never_meet():
    names = explain.picture_names
    assert names(["a/1.jpg", "b/1.jpg", "cat.7.jpg", "x"]) == ["a/1.png", "b/1.png", "cat.7.png", "x.png"]
    assert names(["1.jpg", "1.png", "1.jpg.png"]) == ["1.jpg.png", "1.png.png", "1.jpg.png.png"]
    assert len(set(map(str.casefold, names(["A.jpg", "a.bmp"])))) == 2


def test_images_of_two_folders_and_those_that_explain_wrote(run, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture(tmp_path / folder / "1.jpg")
    for _ in range(2):  # the second time without the pictures of the first
        code, out, err = command("explain", *use(run), "a/1.jpg", "b", "b/1.jpg", ".", "--heatmap-folder=b/h")
        assert code == 0, err
        assert len(out.splitlines()) == 2
    assert sorted(p.as_posix() for p in Path("b/h").rglob("*.png")) == ["b/h/a/1.png", "b/h/b/1.png"]


def test_unreadable_images_are_named(own, tmp_path, command):
    images = tmp_path / "images"
    images.mkdir()
    picture(images / "good.jpg")
    (images / "bad.jpg").write_bytes(b"\xff\xd8no image")
    (images / "notes.txt").write_text("x")
    to, array = f"--heatmap-folder={tmp_path}/h", f"--features-file={tmp_path}/f.npy"
    code, out, err = command("explain", *use(own), to, str(images))
    assert code == 0, err
    assert "no picture: " in out and "bad.jpg" in out and "1 file left out as no images" in out
    assert [p.name for p in (tmp_path / "h").iterdir()] == ["good.png"]
    code, _, err = command("explain", *use(own), to, str(images / "bad.jpg"))
    assert code == 2 and "no image can be read" in err and err.count("\n") == 1
    code, out, err = command("features", *use(own), str(images), array)
    assert code == 2 and "bad.jpg" in err and not list(tmp_path.glob("*f.*"))
    code, out, err = command("features", *use(own), str(images), array, "--on-bad-image=skip")
    assert code == 0 and "no row: " in out, err
    assert np.load(tmp_path / "f.npy").shape == (1, 16)
    assert list(csv.reader((tmp_path / "f.csv").open())) == [["id"], ["good.jpg"]]


def test_what_is_refused(run, dogcat, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = str(dogcat / "test1/1.jpg")
    for words, said in (
        (["explain", image], "explain needs a checkpoint"),
        (["explain", *use(run)], "explain needs images, files or folders"),
        (["explain", *use(run), "nowhere"], "no folder or image nowhere: give images, files or folders"),
        (["explain", *use(run), image, "--layer=nrom"], "Did you mean norm?"),
        (["explain", *use(run), image, "--layer=fc"], "the layer fc gives no map"),
        (["explain", *use(run), image, "--flip-test"], "--flip-test has no effect on explain"),
        (["explain", *use(run), image, "--amp=bf16"], "--amp has no effect on explain"),
        (["features", *use(run), image, "--features-file=f.txt"], "give a name that ends in .npy or .csv"),
        (["features", *use(run), image, "--features-file=no/f.npy"], "no folder no for --features-file"),
        (["features", *use(run), image, "--layer=nrom"], "Did you mean norm?"),
    ):
        code, out, err = command(*words)
        assert code == 2 and said in err and err.count("\n") == 1, err
        assert not list(tmp_path.iterdir())


def test_the_head_on_the_features_gives_the_logits(own, dogcat, tmp_path, command):
    path = tmp_path / "f.npy"
    values = {}
    for size in (1, 5, 24):
        flags = [*use(own), f"--features-file={path}", f"--batch-size={size}"]
        code, out, err = command("features", str(dogcat / "train"), *flags)
        assert code == 0, err
        values[size] = np.load(path)
    assert "24 rows of 16 numbers, the input of fc" in out
    assert values[24].dtype == np.float32 and values[24].shape == (24, 16)
    assert np.allclose(values[1], values[24], atol=1e-5) and np.allclose(values[5], values[24], atol=1e-5)
    weights = torch.load(own / "best.pth", weights_only=True)["net"]
    logits = values[24] @ weights["fc.weight"].numpy().T + weights["fc.bias"].numpy()
    rows = main.test(
        load_path=own, model=MODEL, test_data_root=dogcat / "train", result_file=tmp_path / "r.csv", amp="off"
    )
    dog = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert np.allclose(dog, [p for _, p in rows], atol=1e-5)
    table = list(csv.DictReader((tmp_path / "f.csv").open()))
    assert [row["id"] for row in table] == [name for name, _ in rows]
    assert all(row["class"] == row["id"].split(".")[0] for row in table)


def test_features_as_a_table(own, dogcat, tmp_path, command):
    for name in ("f.npy", "table.csv"):
        code, out, err = command("features", str(dogcat / "train"), *use(own), f"--features-file={tmp_path}/{name}")
        assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert list(rows[0]) == ["id", "class", *(f"f{k}" for k in range(16))] and out.count(".csv") == 1
    numbers = np.array([[row[f"f{k}"] for k in range(16)] for row in rows], dtype=np.float32)
    assert np.array_equal(numbers, np.load(tmp_path / "f.npy"))
    assert not (tmp_path / "table.npy").exists()


def test_the_map_goes_into_the_report(own, dogcat, tmp_path, command):
    flags = [*use(own), f"--features-file={tmp_path}/f.npy", "--layer=norm"]
    code, out, err = command("features", str(dogcat / "train"), *flags)
    assert code == 0 and "the output of norm, the mean over its 49 positions" in out, err
    record = json.loads((own / "features.json").read_text())
    assert record["labels"][0] == "cat" and len(record["points"]) == len(record["names"]) == 24
    points, parts = projection.project(np.load(tmp_path / "f.npy"))
    assert np.allclose(record["points"], points, rtol=1e-3, atol=1e-4) and np.allclose(record["parts"], parts)
    subject = Subject(history.find((own,), tmp_path))
    page = section.build(subject)
    assert "the output of norm" in page and "cat.0.jpg" in page and "of the variance" in page
    for damaged in ("", "[]", '{"points": 1}', json.dumps(record | {"names": [], "points": [[1]]})):
        (own / "features.json").write_text(damaged)
        assert section.build(subject) == ""


def test_principal_components():
    rng = np.random.default_rng(1)
    turned = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    rows = (rng.standard_normal((500, 20)) * 0.8 ** np.arange(20)) @ turned + 7
    rows = rows.astype(np.float32)
    points, parts = projection.project(rows)
    centred = rows.astype(float) - rows.mean(axis=0, dtype=float)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(points), np.abs(left[:, :2] * values[:2]), atol=1e-3)
    assert np.allclose(parts, values[:2] ** 2 / (values**2).sum(), atol=1e-6)
    assert np.array_equal(points, projection.project(rows)[0])
    for few in (rows[:1], rows[:2], rows[:, :1], np.ones((4, 3), np.float32)):
        assert np.isfinite(projection.project(few)[0]).all() and projection.project(few)[0].shape == (len(few), 2)


class Odd(Linear):
    """A layer that is left out, and one that gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 4, 3)
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return self.fc(self.rnn(maps.flatten(2).transpose(1, 2))[0].mean(dim=1) + maps.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("layer", "features", "maps"),
    [("unused", "unused is not used", "the logits do not depend on it"), ("rnn", "rnn gives tuple", "no map")],
)
def test_layers_that_give_nothing_of_an_image(layer, features, maps):
    one = task(Odd(), layer=layer)
    with pytest.raises(UsageError, match=features):
        Source(one)
    with pytest.raises(UsageError, match=maps):
        gradcam.heatmaps(one, noise(2), layer=layer)


def test_the_head_is_found():
    for name, size, words, width in (("vgg11", 32, "classifier.6", 4096), ("squeezenet1_1", 64, "classifier.1", 512)):
        source = Source(task(models.build(name, 3, size), size))
        assert source.words.startswith(f"the input of {words}") and source.size == width
    assert source.words.endswith("the mean over its 9 positions")


def test_labels_are_known_where_the_data_set_reads_the_folder(dogcat, folders, tmp_path):
    labels = known_labels("DogCat", dogcat / "train", ["cat", "dog"])
    assert len(labels) == 24 and labels[dogcat / "train" / "dog.3.jpg"] == "dog"
    assert len(known_labels("Folder", folders, ["bird", "cat", "dog"])) == 36
    assert known_labels("DogCat", dogcat / "test1", ["cat", "dog"]) == {}
    assert known_labels("Folder", folders, ["a", "b", "c"]) == {} and known_labels(None, folders, []) == {}


def test_ctrl_c_leaves_no_half_file(own, dogcat, tmp_path, command, monkeypatch):
    """In the second batch: the pictures of the first are whole, of the array there is nothing."""
    original, calls = Classify._images, []

    def interrupted(self, batch: Batch) -> torch.Tensor:
        calls.append(1)
        if len(calls) == stop_at:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(Classify, "_images", interrupted)
    flags, stop_at = [*use(own), "--batch-size=4", str(dogcat / "train")], 3  # one call finds the layer
    assert command("explain", *flags, f"--heatmap-folder={tmp_path}/h")[0] == 130
    made = list((tmp_path / "h").iterdir())
    assert len(made) == 4 and all(Image.open(path).size[1] == 240 for path in made)
    calls.clear()
    stop_at = 4  # two calls find the head and the width
    assert command("features", *flags, f"--features-file={tmp_path}/f.npy")[0] == 130
    assert not list(tmp_path.glob("*f.*")) and not (own / "features.json").exists()


def test_a_net_whose_output_is_not_finite(dogcat, tmp_path, command):
    state = SmallNet(2).state_dict()
    for name in ("norm.bias", "fc.weight"):
        state[name].fill_(1e30)
    torch.save(state, tmp_path / "w.pth")
    for name, to in (("explain", "--heatmap-folder"), ("features", "--features-file")):
        words = [f"--load-path={tmp_path}/w.pth", *FLAGS, str(dogcat / "test1/1.jpg"), f"{to}={tmp_path}/f.npy"]
        code, _, err = command(name, *words)
        assert code == 1 and "the net's output is not finite" in err and err.count("\n") == 1
        assert not list(tmp_path.glob("*f.*"))


def test_gans_are_refused(dogcat, tmp_path, command):
    small = ["--image-size=96", "--nz=8", "--ngf=4", "--ndf=4", "--amp=off"]
    run = train_in(tmp_path / "gan", "--model=AnimeGAN", f"--train-data-root={dogcat}/train", *small)
    for name in ("explain", "features"):
        code, _, err = command(name, f"--load-path={run}", str(dogcat / "test1"))
        assert code == 2 and "takes classifiers" in err
