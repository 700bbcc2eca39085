"""train, val, test as a user runs them: files, numbers, weights."""

import csv
import fcntl
import json
import math
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import COUNT, ROOT, TINY, picture, presets_of, train_in, unless_given
from PIL import Image
from visdom_server import visdom_server

import models
from cli import presets
from config import Config
from data import cache as cached
from engine.messages.classify import ClassifyMessages
from utils import checkpoints
from utils.progress import coloured
from utils.text import fitted, in_short


def events(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def weights(run, name="last.pth"):
    return checkpoints.read(run / name)["net"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_folder_says_everything(tiny_run, dogcat):
    assert re.fullmatch(r"MNISTNet_DogCat_\d{4}_\d{6}", tiny_run.name)
    names = {path.name for path in tiny_run.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "log.txt", "last.pth", "best.pth", "samples"}
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert Config(**config).model_dump() == config and config["train_data_root"] == f"{dogcat}/train"
    (start,), steps, (epoch,) = (events(tiny_run, kind) for kind in ("start", "step", "epoch"))
    assert start["classes"] == ["cat", "dog"] and (start["images"]["train"], start["images"]["val"]) == (16, 8)
    assert [event["step"] for event in steps] == [1, 2]
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_confusion", "lr", "rate"):
        assert name in epoch
    assert sum(map(sum, epoch["val_confusion"])) == 8
    log = (tiny_run / "log.txt").read_text()
    line = next(line for line in log.splitlines() if line.startswith("epoch 1/1"))
    (a, b), (c, d) = epoch["val_confusion"]
    assert line.startswith(f"epoch 1/1*  loss {epoch['train_loss']:.4f}  val {epoch['val_loss']:.4f}  acc ")
    assert f"acc {epoch['val_accuracy']:.2%}  [{a} {b}; {c} {d}]  lr 0.001" in line and len(line) <= 80
    assert Image.open(tiny_run / "samples" / "predictions_001.png").size[0] > 100


@pytest.mark.parametrize("images", [9, 99, 999, 3750])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seconds", [1, 59, 5000, 8e5])
def test_the_line_of_an_epoch_fits_80_columns(classes, images, seconds):
    task = SimpleNamespace(classes=[str(k) for k in range(classes)], opt=SimpleNamespace(monitor=None))
    metrics = {"loss": 1234.5678, "accuracy": 1.0, "confusion": [[images] * classes] * classes}
    parts = ClassifyMessages(task).epoch({"loss": 0.12345}, metrics)
    line = fitted("epoch 99/99*", parts, ["lr 0.00013", "123 img/s"], f"{in_short(seconds)} left")
    assert len(line) <= 80 and "loss 0.1235" in line and "val 1235" in line and "acc 100.00%" in line
    assert line.endswith(" left") and (f"[{images} {images}; {images} {images}]" in line) == (classes == 2)


@pytest.mark.parametrize(
    ("variables", "colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_only_where_they_are_wanted(variables, colour, monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert coloured("warning: x", "yellow") == ("\x1b[33mwarning: x\x1b[0m" if colour else "warning: x")
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert coloured("warning: x", "yellow") == "warning: x"


def test_a_checkpoint_is_complete_and_plain(tiny_run):
    content = torch.load(tiny_run / "last.pth", weights_only=True)
    assert content.keys() == {"format", "metadata", "net", "task", "trainer"}
    trainer, metadata = content["trainer"], content["metadata"]
    assert (trainer["epoch"], trainer["step"], trainer["monitor"]) == (1, 2, "accuracy")
    assert content["task"].keys() == {"optimizer", "scheduler"} and trainer["best_value"] >= 0
    assert {"machine", "config", "images", "preprocess"} <= metadata.keys()
    assert (metadata["model"], metadata["num_classes"], metadata["task"]) == ("MNISTNet", 2, "Classify")
    assert metadata["classes"] == ["cat", "dog"] and metadata["preprocess"]["image_size"] == 32
    net = models.build("MNISTNet", 2, 32).load(tiny_run)
    assert same(net.state_dict(), content["net"])


def test_val_gives_exactly_the_numbers_of_training(tiny_run, command):
    code, out, _ = command("val", f"--load-path={tiny_run}", "--use-gpu=false")
    (epoch,) = events(tiny_run, "epoch")
    assert code == 0
    assert f"{epoch['val_loss']:.6f}" in out and f"{epoch['val_accuracy']:.4%}" in out
    for name in ("log loss", "ROC AUC", "calibration error", "cat ", "dog "):
        assert name in out
    assert command("val", f"--load-path={tiny_run / 'best.pth'}", "--num-workers=2")[1] == out


def test_val_from_python_gives_the_figures_bit_for_bit(tiny_run):
    from main import val

    figures = val(load_path=str(tiny_run))
    (epoch,) = events(tiny_run, "epoch")
    assert {f"val_{k}": v for k, v in figures.items()} == {k: v for k, v in epoch.items() if k.startswith("val_")}


def test_from_python_with_paths_and_numbers(dogcat, tmp_path):
    from main import test, train, val

    tiny = {"model": "MNISTNet", "image_size": 32, "max_epoch": 1, "num_workers": 0, "vis_port": None, "use_gpu": False}
    run = train(train_data_root=dogcat / "train", checkpoint_dir=tmp_path, lr=1e-3, **tiny)
    assert 0 <= val(load_path=run)["accuracy"] <= 1
    test(load_path=run, test_data_root=dogcat / "test1", result_file=tmp_path / "r.csv")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 11


def test_val_warns_where_the_folder_is_another(tiny_run, dogcat, command, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(dogcat / "train", moved)
    whole = command("val", f"--load-path={tiny_run}", f"--train-data-root={moved}")
    assert whole[0] == 0 and whole[2] == ""
    (moved / "cat.3.jpg").unlink()
    (moved / "cat.4.jpg").unlink()
    code, _, err = command("val", f"--load-path={tiny_run}", f"--train-data-root={moved}")
    assert code == 0 and "may have been trained on" in err and err.count("\n") == 1


@pytest.mark.slow
def test_another_process_whose_output_nobody_reads_gives_the_same_weights(dogcat, tiny_run, tmp_path):
    words = ["main.py", "train", *TINY, f"--train-data-root={dogcat}/train", f"--checkpoint-dir={tmp_path}"]
    shown = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown.stdout.close()
    assert b"Traceback" not in shown.communicate(timeout=200)[1]
    (run,) = tmp_path.iterdir()
    assert same(weights(run), weights(tiny_run))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint-dir={file}"], "--checkpoint-dir={file} is a file: give a folder"),
        (["--train-data-root={file}"], "{file} is a file: give the images"),
        (
            ["--model=resnet18", "--batch-size=1", "--checkpoint-dir={dir}/runs"],
            "cannot take images of 32x32 pixels one at a time",
        ),
        (
            ["--model=squeezenet1_1", "--load-path={weights}", "--checkpoint-dir={dir}/runs"],
            "with 1000 classes; this has 2: train with --pretrained",
        ),
    ],
)
def test_mistakes_of_train(flags, message, dogcat, command, tmp_path):
    places = {"file": dogcat / "train" / "cat.0.jpg", "dir": tmp_path, "weights": tmp_path / "w.pth"}
    torch.save(models.build("squeezenet1_1", 1000).state_dict(), places["weights"])
    flags = [flag.format(**places) for flag in flags]
    code, _, err = command("train", *unless_given([*TINY, f"--train-data-root={dogcat}/train"], flags), *flags)
    assert code == 2 and message.format(**places) in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_csv_may_go_to_a_device_or_through_a_link(tiny_run, dogcat, command, tmp_path):
    words = ["test", f"--load-path={tiny_run}", f"--test-data-root={dogcat}/test1/1.jpg"]
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    assert command(*words, f"--result-file={tmp_path}/pipe")[0] == 0
    reader.join(10)
    assert read[0].startswith("id,label") and (tmp_path / "pipe").is_fifo()
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert command(*words, f"--result-file={tmp_path}/link.csv")[0] == 0
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").is_file()
    code, _, err = command(*words, f"--result-file={tmp_path}")
    assert code == 2 and "is a folder: give a file" in err


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_the_weights_and_the_seed_does(dogcat, tiny_run, tmp_path):
    root = f"--train-data-root={dogcat}/train"
    assert same(weights(train_in(tmp_path, root)), weights(tiny_run))
    assert same(weights(train_in(tmp_path, root, "--num-workers=2")), weights(tiny_run))
    assert not same(weights(train_in(tmp_path, root, "--seed=1")), weights(tiny_run))


@pytest.mark.slow
def test_a_runs_config_repeats_it(tiny_run, tmp_path):
    run = train_in(tmp_path, f"--config={tiny_run}/config.yaml")
    assert same(weights(run), weights(tiny_run))


@pytest.mark.slow
def test_the_csv_of_test(tiny_run, dogcat, command, tmp_path):
    result = tmp_path / "r.csv"
    words = ["test", f"--load-path={tiny_run}", f"--result-file={result}", "--batch-size=3"]
    code, out, _ = command(*words, f"--test-data-root={dogcat}/test1")
    rows = list(csv.reader(result.open()))
    assert code == 0 and "10 rows" in out and "probability of dog" in out
    assert rows[0] == ["id", "label"] and [row[0] for row in rows[1:]] == [str(i) for i in range(1, 11)]
    net = models.build("MNISTNet", 2, 32).load(tiny_run).eval()
    from data.transforms import Preprocess

    preprocess = Preprocess(32)
    for name, label in rows[1:]:
        image = torch.from_numpy(preprocess.eval(dogcat / "test1" / f"{name}.jpg").copy())[None]
        with torch.no_grad():
            expected = net(preprocess.normalize(image)).softmax(dim=1)[0, 1].item()
        assert float(label) == pytest.approx(expected, abs=1e-5)
    code, _, _ = command(*words, f"--test-data-root={dogcat}/test1/7.jpg")
    one = list(csv.reader(result.open()))
    assert code == 0 and one[1][0] == "7" and float(one[1][1]) == pytest.approx(float(rows[7][1]), abs=1e-5)


def test_odd_files_beside_the_images_to_label(tiny_run, command, tmp_path):
    picture(tmp_path / "3.png")
    picture(tmp_path / "a photo.JPG", size=(10, 300))
    (tmp_path / "Thumbs.db").write_text("x")
    code, _, _ = command(
        "test", f"--load-path={tiny_run}", f"--test-data-root={tmp_path}", f"--result-file={tmp_path}/r.csv"
    )
    assert code == 0
    assert [row[0] for row in csv.reader((tmp_path / "r.csv").open())] == ["id", "3", "a photo.JPG"]


def test_a_bad_image_leaves_the_old_csv(tiny_run, command, tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.jpg").write_bytes(b"bad")
    result = tmp_path / "r.csv"
    result.write_text("old")
    code, _, err = command("test", f"--load-path={tiny_run}", f"--test-data-root={tmp_path}", f"--result-file={result}")
    assert code == 2 and "2.jpg cannot be read" in err and err.count("\n") == 1
    assert result.read_text() == "old"
    code, _, err = command(
        "test", f"--load-path={tiny_run}", f"--test-data-root={tmp_path}", "--result-file=/nowhere/r.csv"
    )
    assert code == 2 and "no folder /nowhere" in err


def test_three_classes(folders, tmp_path, command):
    run = train_in(
        tmp_path, "--dataset=Folder", f"--train-data-root={folders}", "--model=SqueezeNet", "--val-fraction=0.5"
    )
    code, out, _ = command("val", f"--load-path={run}")
    assert code == 0 and all(name in out for name in ("bird", "cat", "dog"))
    result = tmp_path / "r.csv"
    code, _, _ = command("test", f"--load-path={run}", f"--test-data-root={folders}", f"--result-file={result}")
    rows = list(csv.DictReader(result.open()))
    assert code == 0 and len(rows) == 3 * COUNT and list(rows[0]) == ["id", "predicted", "bird", "cat", "dog"]
    assert rows[0]["id"] == "bird/0.png"


@pytest.mark.slow
def test_a_checkpoint_that_does_not_agree(tiny_run, folders, dogcat, command, tmp_path):
    code, _, err = command("test", f"--load-path={tiny_run}", "--model=AlexNet")
    assert code == 2 and "holds MNISTNet, not AlexNet" in err
    assert command("test", f"--load-path={tiny_run}", "--model=MNISTNet", f"--test-data-root={dogcat}/test1/1.jpg",
                   f"--result-file={tmp_path}/r.csv")[0] == 0  # fmt: skip
    words = [f"--train-data-root={dogcat}/train", f"--checkpoint-dir={tmp_path}/runs", *TINY, f"--load-path={tiny_run}"]
    code, _, err = command(
        "train", *unless_given(words, ("--model", "--image-size")), "--model=AlexNet", "--image-size=64"
    )
    assert code == 2 and "holds MNISTNet with 2 classes; this is AlexNet with 2 classes" in err
    code, _, err = command("train", *words, "--dataset=Folder", f"--train-data-root={folders}")
    assert code == 2 and "given twice" in err
    words = [word for word in words if "train-data-root" not in word]
    code, _, err = command("train", *words, "--dataset=Folder", f"--train-data-root={folders}")
    assert code == 2 and "trained on the classes cat, dog, and these are bird, cat, dog: add --pretrained" in err
    assert not (tmp_path / "runs").exists()
    net = models.ResNet34(num_classes=2).save(tmp_path / "net.pth")
    code, _, err = command("val", f"--load-path={net}")
    assert code == 2 and "holds weights only" in err


@pytest.mark.slow
def test_training_starts_from_weights(tiny_run, dogcat, tmp_path):
    flags = [f"--train-data-root={dogcat}/train", f"--load-path={tiny_run}", "--lr=1e-30", "--optimizer=SGD"]
    moved = weights(train_in(tmp_path, *flags))
    kept = {k: v for k, v in weights(tiny_run, "best.pth").items() if "running" not in k and "num_batches" not in k}
    assert all(torch.equal(moved[k], v) for k, v in kept.items())


def test_pretrained_takes_a_local_file_with_another_head(dogcat, tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(5)
    source = resnet18(num_classes=1000)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    flags = [
        "--model=resnet18",
        "--pretrained",
        f"--load-path={tmp_path}/resnet18.pth",
        "--lr=1e-30",
        "--optimizer=SGD",
    ]
    net = weights(train_in(tmp_path / "runs", f"--train-data-root={dogcat}/train", *flags))
    assert torch.equal(net["conv1.weight"], source.state_dict()["conv1.weight"])
    assert net["fc.weight"].shape == (2, 512)


def test_an_image_size_that_the_net_cannot_take(dogcat, command, tmp_path):
    words = unless_given(TINY, ("--model", "--image-size"))
    code, _, err = command("train", *words, "--model=AlexNet", "--image-size=40", f"--train-data-root={dogcat}/train",
                           f"--checkpoint-dir={tmp_path}/runs")  # fmt: skip
    assert code == 2 and "AlexNet cannot take images of 40x40" in err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [name for name in models.names() if models.task_of(name) == "Classify"])
@pytest.mark.slow
def test_every_model_trains(name, dogcat, tmp_path):
    run = train_in(
        tmp_path,
        f"--train-data-root={dogcat}/train",
        f"--model={name}",
        "--image-size=64",
        "--amp=bf16",
        "--optimizer=SGD",
    )
    assert all(v.isfinite().all() for v in weights(run).values())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
def test_every_optimizer_trains(optimizer, dogcat, tmp_path):
    run = train_in(
        tmp_path, f"--train-data-root={dogcat}/train", f"--optimizer={optimizer}", "--max-epoch=3", "--lr=1e-4"
    )
    losses = [event["loss"] for event in events(run, "step")]
    assert len(losses) == 6 and losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["plateau", "cosine", "onecycle", "constant"])
def test_every_scheduler_trains(scheduler, dogcat, tmp_path):
    run = train_in(
        tmp_path, f"--train-data-root={dogcat}/train", f"--scheduler={scheduler}", "--max-epoch=3", "--lr=0.003"
    )
    rates = [event["lr"] for event in events(run, "step")]
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3, 4, 5, 6]
    if scheduler != "plateau":
        assert (rates[-1] < max(rates)) == (scheduler in ("cosine", "onecycle"))
        return
    losses, expected = [event["val_loss"] for event in events(run, "epoch")], [0.003, 0.003]
    for before, after in zip([math.inf, *losses], losses[:2], strict=False):  # the last epoch has no steps after it
        expected += [expected[-1] * (0.5 if after > before else 1)] * 2
    assert rates == pytest.approx(expected)
    assert losses[1] > losses[0]  # else nothing had to fall


@pytest.mark.slow
@pytest.mark.parametrize("name", presets_of("Classify"))
def test_every_preset_runs(name, dogcat, tmp_path, command, monkeypatch):
    """The whole way with the preset's model and recipe, on few small images."""
    monkeypatch.setattr(cached, "CACHE", tmp_path / "cache")
    values = {option: text for option, (text, _) in presets.read(name).items()}
    if values.get("optimizer") == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    small = [
        f"--train-data-root={dogcat}/train",
        f"--dataset={'Demo' if name == 'demo' else 'DogCat'}",
        "--max-epoch=1",
        "--image-size=64",
        "--num-workers=0",
        "--vis-port=None",
    ]
    if "pretrained" in values:
        model = values.get("model", Config.model_fields["model"].default)
        small.append(f"--load-path={models.build(model, num_classes=5).save(tmp_path / 'weights.pth')}")
    small.append(f"--checkpoint-dir={tmp_path / 'runs'}")
    code, out, _ = command("train", f"--config={name}", *small)
    assert code == 0 and "next: python main.py val" in out
    assert command("val", "--load-path=last", small[-1])[0] == 0
    code, _, _ = command("test", "--load-path=last", small[-1], f"--test-data-root={dogcat}/test1",
                         f"--result-file={tmp_path}/r.csv")  # fmt: skip
    assert code == 0 and len((tmp_path / "r.csv").read_text().splitlines()) == 11


def test_one_image_left_over_trains_with_the_batch_before(dogcat, tmp_path):
    """16 training images in batches of 15: BatchNorm could not learn from the last one alone."""
    run = train_in(tmp_path, f"--train-data-root={dogcat}/train", "--batch-size=15", "--model=CifarNet")
    assert len(events(run, "step")) == 1


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_and_elsewhere_plain_lines(tiny_run, command, monkeypatch):
    _, out, err = command("val", f"--load-path={tiny_run}")
    assert err == "" and "\r" not in out
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with open(follower, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        command("val", f"--load-path={tiny_run}")
    os.set_blocking(leader, False)
    text = os.read(leader, 10000).decode()
    os.close(leader)
    assert "validating" in text and "img/s" in text


def hung_server():
    """A server that accepts and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []
    threading.Thread(target=lambda: [kept.append(listener.accept()) for _ in range(100)], daemon=True).start()
    return listener


@pytest.mark.slow
def test_a_hung_visdom_server_changes_nothing_but_a_warning(dogcat, tiny_run, tmp_path):
    with hung_server() as listener:
        run = train_in(tmp_path, f"--train-data-root={dogcat}/train", f"--vis-port={listener.getsockname()[1]}")
    assert same(weights(run), weights(tiny_run))
    assert [e["loss"] for e in events(run, "step")] == [e["loss"] for e in events(tiny_run, "step")]
    assert sum(line.startswith("visdom:") for line in (run / "log.txt").read_text().splitlines()) <= 1


@pytest.mark.slow
def test_the_visdom_page_shows_the_run(dogcat, tiny_run, tmp_path):
    with visdom_server() as server:
        run = train_in(
            tmp_path, f"--train-data-root={dogcat}/train", f"--vis-port={server.port}", "--env=a#b", "--max-epoch=2"
        )
        titles = {window["title"].removesuffix(f" of {run.name}") for window in server.windows("a#b").values()}
        pages = [path.read_text() for path in Path(server.folder).glob("*.json")]  # that a server started anew shows
        assert any("predictions" in page for page in pages)
    assert {"loss by step", "learning rate", "loss", "accuracy", "predictions", "confusion matrix"} <= titles
    assert len(events(run, "epoch")) == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_to_label(tiny_run, tmp_path):
    """Logits and images of one batch at a time: checked by what is alive while the CSV is written."""
    import gc

    from data.loaders import Batch
    from engine.setup import load_task, test_loader

    opt = Config(model="MNISTNet", load_path=str(tiny_run), batch_size=2, num_workers=0, use_gpu=False)
    paths = [picture(tmp_path / f"{i}.png") for i in range(8)]
    task = load_task(opt, checkpoints.read(tiny_run / "best.pth"))
    alive = []
    for _ in task.predict(test_loader(opt, paths, task)):
        gc.collect()
        alive.append(sum(type(o) is Batch for o in gc.get_objects()))
    assert len(alive) == 4 and max(alive) <= 3


@pytest.mark.slow
def test_notebook_use(tmp_path):
    script = f"""
from config import Config
from data import cache as cached
import models
opt = Config(lr=0.1, model="ResNet34")
path = models.ResNet34(num_classes=2).save({str(tmp_path / "net.pth")!r})
net = models.ResNet34(num_classes=2).load(path)
print(opt.lr, net.model_name, net.get_optimizer(lr=opt.lr, weight_decay=1e-4).param_groups[0]["lr"])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "0.1 ResNet34 0.1\n", done.stderr
