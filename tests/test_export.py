"""export: files that answer as the net does, that val, test and predict take, and what lies beside them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, TINY, train_in, unless_given
from families import FAMILIES, QUICK, compared, task_of
from PIL import Image

import models
from export import parity, predict
from export.card import card
from export.graph import TORCH, Graph
from models.exported import ExportedNet
from utils import checkpoints
from utils.errors import RunError, UsageError

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
    pytest.skip("export needs a newer torch", allow_module_level=True)


@pytest.fixture(scope="module")
def run(tiny_run) -> Path:
    return tiny_run


@pytest.fixture(scope="module")
def onnx(run, tmp_path_factory) -> Path:
    """The folder of an export with pixels, and of one without, of the tiny run."""
    import main

    folder = tmp_path_factory.mktemp("export")
    main.export(load_path=str(run), export_folder=str(folder / "images"))
    main.export(load_path=str(run), export_folder=str(folder / "pixels"), pixels="true")
    return folder


# ---- the same answers


@pytest.mark.parametrize("name", [*models.names(), *(FAMILIES if "EVERY_FAMILY" in os.environ else QUICK)])
def test_a_file_answers_as_the_net_does(name):
    found = compared(task_of(name))
    assert found.holds and found.changed == 0 and found.images == (34 if found.logits is not None else 170), str(found)
    assert found.logits is None or found.scale > 0 or name == "timm/mixer_s32_224"  # its head begins with zeros


@pytest.mark.parametrize("kind", [".onnx", ".pt2"])
@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("name", ["LeNet", "CifarNet", "MNISTGAN"])
def test_every_format_with_and_without_pixels(name, pixels, kind):
    found = compared(task_of(name), kind, pixels)
    assert found.holds and found.changed == 0, str(found)


def test_a_net_that_was_left_in_training_is_exported_for_evaluation():
    task = task_of("CifarNet")
    task.net.train()
    assert compared(task).holds


def test_a_difference_is_seen():
    task, other = task_of("CifarNet"), task_of("CifarNet")
    with torch.no_grad():
        next(iter(other.net.parameters())).mul_(1.01)
    graph = Graph.of(other, False)
    texts = {"classes": '["a", "b", "c"]', "mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]", "input": "images"}
    net = ExportedNet(graph.torch_file(texts), ".pt2", texts)
    shown = torch.randint(256, (34, 64, 64, 3)).to(torch.uint8)
    batch = parity.Batch(shown, torch.zeros(34), torch.arange(34))
    sample = parity.Sample(shown, next(iter(task.predict([batch])))[1], [])
    assert not parity.compare(sample, parity.with_net(task, net)).holds


@pytest.mark.parametrize("value", [1e-3, float("nan")])
def test_what_answers_otherwise_is_not_written(value, run, command, tmp_path, monkeypatch):
    original = ExportedNet.forward
    monkeypatch.setattr(ExportedNet, "forward", lambda self, images: original(self, images) + value)
    code, out, err = command("export", f"--load-path={run}", f"--export-folder={tmp_path / 'out'}")
    assert code in (1, 2) and not out and err.count("\n") == 1 and not (tmp_path / "out").exists(), err
    assert "nothing is written" in err or "not finite" in err


def test_it_is_told_how_far_val_is_from_the_file(run, command, tmp_path):
    code, out, err = command("export", f"--load-path={run}", f"--export-folder={tmp_path}", "--amp=bf16")
    line = next(line for line in out.splitlines() if line.startswith("val computes in bf16 here"))
    assert code == 0 and 0 < float(line.split("by up to ")[1].split(",")[0]) < 0.1, out + err


# ---- the files


def test_a_file_says_what_it_takes_and_where_it_comes_from(onnx, run):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx / "images" / "model.onnx")
    told = session.get_modelmeta().custom_metadata_map
    saved = checkpoints.read(run / "best.pth")["metadata"]
    assert json.loads(told["classes"]) == ["cat", "dog"] and told["run"] == run.name and told["epoch"] == "1"
    for name in ("mean", "std", "image_size", "crop_pct", "interpolation"):
        value = saved["preprocess"][name]
        assert json.loads(told[name]) == (list(value) if isinstance(value, tuple) else value)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, answer.name) == ("images", "logits") and given.shape[1:] == [3, 32, 32]
    assert isinstance(given.shape[0], str)  # of any size
    assert sorted(path.name for path in (onnx / "images").iterdir()) == ["README.md", "model.onnx", "predict.py"]
    pixels = onnxruntime.InferenceSession(onnx / "pixels" / "model.onnx").get_inputs()[0]
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [32, 32, 3])


@pytest.mark.parametrize(
    "words", [[], ["--pixels"], ["--format=torch"], ["--format=torch", "--pixels"], ["--format=safetensors"]]
)
def test_val_and_test_give_the_same_of_a_file(words, run, dogcat, command, tmp_path):
    out = tmp_path / "out"
    assert command("export", f"--load-path={run}", f"--export-folder={out}", *words)[0] == 0
    (file,) = out.glob("model.*")
    _, expected, _ = command("val", f"--load-path={run}")
    code, found, err = command("val", f"--load-path={file}")
    assert code == 0 and found.splitlines() == expected.splitlines()[:-1], found + err  # but for "written to"
    tables = []
    for path in (run, file):
        assert (
            command("test", f"--load-path={path}", f"--test-data-root={dogcat}/test1", f"--result-file={out}/r.csv")[0]
            == 0
        )
        rows = [line.split(",") for line in (out / "r.csv").read_text().splitlines()[1:]]
        tables.append({name: float(value) for name, value in rows})
    assert tables[0] == pytest.approx(tables[1], abs=1e-5)


@pytest.mark.parametrize("kind", ["images", "pixels"])
def test_predict_py_needs_no_torch_and_says_what_predict_says(kind, onnx, run, dogcat, command, tmp_path):
    shutil.copytree(dogcat / "test1", tmp_path / "in")
    (tmp_path / "in" / "1.jpg").rename(tmp_path / "in" / '1, "one".jpg')
    images = [str(path) for path in sorted((tmp_path / "in").iterdir())]
    words = [sys.executable, "-c", WITHOUT_TORCH, str(onnx / kind / "predict.py"), *images]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = list(csv.reader(done.stdout.splitlines()))
    _, out, _ = command("predict", f"--load-path={run}", f"{tmp_path}/in")
    expected = {path: more for path, *more in list(csv.reader(out.splitlines()))[1:]}
    assert len(found) == len(expected) == 10
    for path, label, probability in found:
        assert label == expected[path][0] and float(probability) == pytest.approx(float(expected[path][1]), abs=1e-4)


def test_predict_py_reads_what_training_reads(tmp_path, run):
    from data.transforms import Preprocess

    base = Image.effect_noise((150, 101), 90).convert("RGB")
    base.paste((200, 30, 30), (20, 10, 90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = base.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(base.size))
    made = {"plain.jpg": (base, {}), "turned.jpg": (base, {"exif": exif}), "grey.png": (base.convert("L"), {})}
    made |= {"clear.png": (clear, {}), "palette.gif": (base.convert("P"), {})}
    for name, (image, options) in made.items():
        image.save(tmp_path / name, **options)
        for channels in (1, 3):
            own = Preprocess(48, mean=(0.5,) * channels, std=(0.5,) * channels, crop_pct=0.9).eval(tmp_path / name)
            found = predict.read(tmp_path / name, 48, 0.9, "bilinear", channels)
            assert abs(found.astype(int) - own).max() <= 1, name


def test_a_generator_is_exported_with_a_program_that_draws(mnist, command, tmp_path):
    flags = [
        "--model=MNISTGAN",
        "--dataset=MNIST",
        "--max-epoch=1",
        "--batch-size=32",
        "--num-workers=0",
        "--use-gpu=false",
    ]
    run = train_in(tmp_path / "runs", f"--train-data-root={mnist}", *flags, "--image-size=28")
    out = tmp_path / "out"
    code, told, err = command("export", f"--load-path={run}", f"--export-folder={out}", "--pixels")
    assert code == 0 and "latents (N x 100, float32) -> pixels" in told, err
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(out / "generate.py"), "3"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0 and Image.open(tmp_path / "generated.png").size == (28, 28), done.stderr
    code, _, err = command("val", f"--load-path={out}/model.onnx")
    assert code == 2 and "holds a generator" in err and err.count("\n") == 1


def test_the_card_is_read_by_the_hub_and_kept_once_it_is_edited(onnx, run, command):
    card = (onnx / "images" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    metrics = {m["type"]: m["value"] for m in header["model-index"][0]["results"][0]["metrics"]}
    saved = checkpoints.read(run / "best.pth")["trainer"]["metrics"]
    assert header["pipeline_tag"] == "image-classification" and metrics["accuracy"] == round(saved["accuracy"], 4)
    assert "cat, dog" in card and run.name in card
    (onnx / "images" / "README.md").write_text("mine")
    code, out, _ = command("export", f"--load-path={run}", f"--export-folder={onnx / 'images'}")
    assert code == 0 and "is kept as it is" in out and (onnx / "images" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("task", "figures"), [("Classify", {"loss": 0.5, "roc_auc": 0.875}), ("Gan", {"distance": 31.25, "variety": 0.75})]
)
def test_the_card_tells_every_figure(task, figures):
    preprocess = {"image_size": 8, "mean": (0.5,), "std": (0.5,)}
    metadata = {"model": "Mine", "task": task, "classes": ["a", "b"], "preprocess": preprocess}
    metrics = figures | {"recalls": [0.5, 1.0], "unknown": float("nan")}
    text = card({"metadata": metadata, "trainer": {"metrics": metrics}}, "run", "model.onnx", [])
    results = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert {one["type"]: one["value"] for one in results} == figures
    assert all(f"| {name} | {value:.4f} |" in text for name, value in figures.items())
    assert "recalls" not in text and "unknown |" not in text


def test_eight_bits_are_written_with_what_they_cost(run, command, tmp_path):
    code, out, err = command("export", f"--load-path={run}", "--quantize", f"--export-folder={tmp_path}")
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("model.int8.onnx"))
    _, table, _ = command("val", f"--load-path={tmp_path}/model.int8.onnx")
    accuracy = next(line.split()[1] for line in table.splitlines() if line.startswith("accuracy"))
    assert f"accuracy {float(accuracy.rstrip('%')) / 100:.4f}" in line
    assert (tmp_path / "model.int8.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format=onx"], "Did you mean onnx?"),
        (["--format=torch", "--quantize"], "--quantize has no effect: it takes --format=onnx"),
        (["--format=safetensors", "--pixels"], "--pixels has no effect"),
        (["--format=safetensors", "--no-parity"], "--parity has no effect"),
    ],
)
def test_options_without_effect(words, said, run, command, tmp_path):
    code, out, err = command("export", f"--load-path={run}", f"--export-folder={tmp_path}/out", *words)
    assert code == 2 and said in err and err.count("\n") == 1 and not (tmp_path / "out").exists(), err


def test_without_images_there_is_no_comparison_unless_that_is_asked_for(run, dogcat, command, tmp_path):
    words = ["export", f"--load-path={run}", f"--export-folder={tmp_path}/out", f"--train-data-root={dogcat}/test1"]
    code, _, err = command(*words)
    assert code == 2 and "no images to compare with" in err and "--no-parity" in err and err.count("\n") == 1
    code, out, err = command(*words, "--no-parity")
    assert code == 0 and "same answers" not in out and (tmp_path / "out" / "model.onnx").is_file(), err


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_lacks_is_named_before_anything_is_done(name, run, command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    code, _, err = command("export", f"--load-path={run}", f"--export-folder={tmp_path}/out")
    assert code == 2 and name in err and "pip install" in err and err.count("\n") == 1, err


def test_a_torch_that_is_too_old_is_named(run, command, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    code, _, err = command("export", f"--load-path={run}", f"--export-folder={tmp_path}/out")
    assert code == 2 and "export needs torch 2.9 or newer, and this is 2.6.0" in err and err.count("\n") == 1, err
    assert command("export", f"--load-path={run}", f"--export-folder={tmp_path}/out", "--format=safetensors")[0] == 0


@pytest.mark.parametrize("content", [b"", b"not a net", "cut"])
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_damaged_file_is_one_line(kind, content, onnx, command, tmp_path):
    data = (onnx / "images" / "model.onnx").read_bytes()
    path = tmp_path / f"net.{kind}"
    path.write_bytes(data[: len(data) // 2] if content == "cut" else content)
    code, _, err = command("val", f"--load-path={path}")
    assert code == 2 and "damaged" in err and err.count("\n") == 1, err


def test_a_net_is_no_start_for_a_training(onnx, dogcat, command, tmp_path):
    words = [*unless_given(TINY, ()), f"--train-data-root={dogcat}/train", f"--checkpoint-dir={tmp_path}"]
    code, _, err = command("train", *words, f"--load-path={onnx}/images/model.onnx")
    assert code == 2 and "holds a net, not its weights" in err and err.count("\n") == 1, err


def test_a_net_that_cannot_be_followed_is_told_in_one_line(capfd):
    task = task_of("LeNet")
    forward = task.net.forward
    task.net.forward = lambda images: forward(images) if images.sum() > 0 else forward(-images)
    with pytest.raises(RunError, match="the net cannot be exported: torch.export says"):
        Graph.of(task, False).traced()
    assert capfd.readouterr() == ("", "")


def test_a_task_of_another_kind_is_refused():
    from engine.tasks.base import Task

    class Other(Task):
        """Neither labels nor makes images."""

    task = task_of("LeNet")
    task.__class__ = Other
    with pytest.raises(UsageError, match="export knows classifiers and GANs"):
        Graph.of(task, False)


def test_help_of_the_copied_programs_is_true():
    for name in ("predict.py", "generate.py"):
        text = (ROOT / "export" / name).read_text()
        assert "import torch" not in text and "from utils" not in text
