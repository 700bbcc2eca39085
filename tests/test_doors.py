"""Open doors: one file outside of the repository, through the real commands."""

import csv
import json
import os
import signal
import sys

import pytest
import torch
from compare import record, same, trained
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import main
import models
from analysis import bench
from engine.metrics import METRICS
from engine.tasks.classify import Classify
from utils import checkpoints, registry, torch_optim
from utils.errors import UsageError

FLAGS = ["--image-size=16", "--batch-size=8", "--max-epoch=2", "--num-workers=0", "--use-gpu=false", "--amp=off"]
FLAGS += ["--vis-port=None"]

NET = """
import pathlib
from torch import nn
with pathlib.Path(__file__).with_name("imported").open("a") as file:
    file.write("x")

class Net(nn.Module):
    '''A net of mine.'''
    def __init__(self, num_classes, in_channels=3, width=4):
        super().__init__()
        if width > 64:
            raise ValueError("too wide")
        self.conv = nn.Conv2d(in_channels, width, 3, 2)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))

def small(num_classes):
    return Net(num_classes, width=2)

class TenOutputs(Net):
    def __init__(self):
        super().__init__(10)

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Dice(nn.Module):
    def __init__(self, num_classes):
        import random
        super().__init__()
        width = random.randint(3, 10**6)
        self.conv = nn.Conv2d(3, 2, 3)
        self.head = nn.Linear(2, num_classes)
        self.noise = nn.Parameter(__import__("torch").zeros(width))

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3))) + self.noise.sum()

class Book(nn.Module):
    '''As in the book: a name of its own, and its own optimizer.'''
    def __init__(self, num_classes=2):
        super().__init__()
        self.model_name = "resnet34"
        self.body, self.head = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

    def get_optimizer(self, lr, weight_decay):
        import torch
        groups = [{"params": self.body.parameters(), "lr": lr / 10}, {"params": self.head.parameters()}]
        return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay)

class Greedy(Net):
    '''Trained by a task of this file, whose state has the names that the loop uses too.'''
    task = "MyTask"

from data.image_data import ImageData
from engine.optimizers import load_optimizer_state, make_optimizer
from engine.tasks.base import Task

class MyTask(Task):
    option_groups = ("optimization",)

    def setup(self, items):
        self.steps = 0
        if items is not None:
            self.optimizer = make_optimizer(self.net, self.opt, self.device)

    def train_step(self, batch):
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.net(self.preprocess.normalize(batch.images)), batch.labels)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return {"loss": loss.detach()}

    def evaluate(self, batches):
        return {"loss": sum(float(batch.labels.float().sum()) for batch in batches) / (1 + self.steps)}

    def lr(self):
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self):
        own = {"epoch": -1, "step": -self.steps, "config": "mine", "metadata": [1], "trainer": 2}
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), **own}

    def load_state_dict(self, state):
        assert state["epoch"] == -1 and state["config"] == "mine" and state["trainer"] == 2
        self.steps = -state["step"]
        self.net.load_state_dict(state["net"])
        load_optimizer_state(self.optimizer, state["optimizer"])
"""


@pytest.fixture
def run(command, dogcat, tmp_path, monkeypatch):
    """Trains on a few small images in an empty folder with NET in net.py; returns (run folder, stdout)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)

    def start(*flags, code=0, new=True):
        given = {flag.split("=")[0] for flag in flags}
        own = [*FLAGS, f"--train-data-root={dogcat}/train"] if new else []
        found, out, err = command("train", *(f for f in own if f.split("=")[0] not in given), *flags)
        assert found == code, err
        if code == 2:
            assert err.count("\n") == 1 and "Traceback" not in err
            return None, err
        return max((tmp_path / "checkpoints").glob("*/"), key=lambda p: (p / "config.yaml").stat().st_ctime_ns), out

    return start


def imported(tmp_path) -> int:
    file = tmp_path / "imported"
    return len(file.read_text()) if file.exists() else 0


def test_a_plain_module_from_a_file(run, command, dogcat, tmp_path, monkeypatch):
    whole, out = run("--model=net.py:Net", "--model-args=width=6")
    assert whole.name.startswith("Net_DogCat_") and "--model=net.py:Net" in out.splitlines()[-1]
    assert checkpoints.read(whole / "best.pth")["metadata"]["model_args"] == {"width": 6}
    with monkeypatch.context() as patch:
        original = Classify.train_step

        def stopping(self, batch):
            if self.optimizer.state and next(iter(self.optimizer.state.values()))["step"] == 1:
                signal.raise_signal(signal.SIGTERM)
            return original(self, batch)

        patch.setattr(Classify, "train_step", stopping)
        stopped, _ = run("--model=net.py:Net", "--model-args=width=6", code=143)
    count = imported(tmp_path)
    flags = [f"--resume={stopped}", "--model=net.py:Net"]
    run(*flags, new=False)
    assert record(stopped) == record(whole)
    for name in ("last.pth", "best.pth"):
        assert same(trained(checkpoints.read(stopped / name)), trained(checkpoints.read(whole / name)))
    # never because a checkpoint or a run folder says so
    for words in (
        ["val", f"--load-path={whole}"],
        ["test", f"--load-path={whole}", f"--test-data-root={dogcat}/test1"],
        ["train", f"--resume={whole}", "--max-epoch=3"],
    ):
        code, _, err = command(*words)
        assert code == 2 and err.count("\n") == 1 and "add --model=net.py:Net" in err
        assert imported(tmp_path) == count
    for words in (["val"], ["test", f"--test-data-root={dogcat}/test1"]):
        code, out, err = command(*words, f"--load-path={whole}", "--model=net.py:Net")
        assert code == 0, err
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "net.py", tmp_path / "elsewhere" / "net.py")
    assert command("val", f"--load-path={whole}", "--model=elsewhere/net.py:Net")[0] == 0
    assert "A net of mine." in command("help", "elsewhere/net.py:Net")[1]


def test_other_ways_to_name_a_model(run, command, mnist, tmp_path, monkeypatch):
    (tmp_path / "package_of_test").mkdir()
    (tmp_path / "package_of_test" / "module.py").write_text(NET)
    run("--model=net.py:small", "--max-epoch=1")
    monkeypatch.setattr(sys, "path", sys.path[:])
    dotted, _ = run("--model=package_of_test.module:Net", "--max-epoch=1")
    assert dotted.name.startswith("Net_") and (tmp_path / "package_of_test" / "imported").exists()
    assert command("val", f"--load-path={dotted}", "--model=package_of_test.module:Net")[0] == 0
    grey, _ = run("--model=net.py:Net", "--dataset=MNIST", f"--train-data-root={mnist}", "--max-epoch=1")
    assert checkpoints.read(grey / "last.pth")["net"]["conv.weight"].shape == (4, 1, 3, 3)
    (tmp_path / "mine.yaml").write_text("model: net.py:Net\nmodel_args:\n  width: 3\n")
    preset, _ = run("--config=mine.yaml", "--max-epoch=1")
    assert checkpoints.read(preset / "last.pth")["net"]["conv.weight"].shape == (3, 3, 3, 3)
    assert command("val", f"--load-path={preset}", "--config=mine.yaml")[0] == 0


class InNotebook(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def test_classes_and_instances_in_python(dogcat, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"image_size": 16, "max_epoch": 1, "num_workers": 0, "use_gpu": False, "vis_port": None}
    given["train_data_root"] = dogcat / "train"
    run = main.train(model=InNotebook, **given)
    metrics = main.val(load_path=run, model=InNotebook)
    assert metrics["accuracy"] == checkpoints.read(run.folder / "best.pth")["trainer"]["metrics"]["accuracy"]
    rows = main.test(load_path=run, model=InNotebook, test_data_root=dogcat / "test1")
    with open("result.csv") as file:
        assert [name for name, _ in rows] == [row["id"] for row in csv.DictReader(file)]
    net = InNotebook(2)
    before = net.head.weight.detach().clone()
    run = main.train(model=net, **given)
    assert not torch.equal(net.head.weight, before)  # it is the net itself that was trained
    assert main.val(load_path=run, model=net)["accuracy"] >= 0
    with pytest.raises(UsageError, match="--model="):
        registry._objects.clear()
        main.val(load_path=run)
    images, labels = torch.randint(0, 256, (24, 16, 16, 3), dtype=torch.uint8), torch.arange(24) % 3
    del given["train_data_root"]
    run = main.train(model="LeNet", dataset=TensorDataset(images, labels), **given)
    assert checkpoints.read(run.folder / "last.pth")["metadata"]["num_classes"] == 3
    assert main.check(config="demo", model="LeNet", train_data_root=dogcat / "train", image_size=32) == []


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model=net.py:TenOutputs"], "let its constructor take num_classes"),
        (["--model=net.py:Pair"], "gives a tuple"),
        (["--model=net.py:Dice"], "could not be loaded again"),
        (["--model=net.py:Net", "--model-args=widht=3"], "takes no 'widht': it takes width. Did you mean width?"),
        (["--model=net.py:Net", "--model-args=width=99"], "too wide"),
        (["--model=net.py:Nett"], "Did you mean Net?"),
        (["--model=nett.py:Net"], "no file nett.py"),
        (["--model=net.py:Net", "--freeze=^nothing"], "no weight matches"),
        (["--model=net.py:Net", "--freeze=."], "all weights match"),
        (["--model=net.py:Net", "--monitor=acuracy"], "Did you mean accuracy?"),
        (["--model=net.py:Book", "--optimizer=SGD"], "its get_optimizer makes its own optimizer"),
        (
            ["--model=net.py:Greedy", "--mixup=0.2"],
            "--mixup has no effect on net.py:Greedy: it is an option of classif",
        ),
        (["--model=resnet18", "--optimizer=net.py:None"], "net.py defines no 'None'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(flags, message, run, tmp_path):
    _, err = run(*flags, code=2)
    assert message in err and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("scheduler", ["plateau", "cosine", "onecycle"])
def test_a_model_of_the_book_works_unchanged(scheduler, run, command):
    folder, _ = run("--model=net.py:Book", f"--scheduler={scheduler}", "--lr=0.01")
    groups = checkpoints.read(folder / "last.pth")["task"]["optimizer"]["param_groups"]
    assert groups[0]["lr"] == pytest.approx(groups[1]["lr"] / 10)
    assert command("val", f"--load-path={folder}", "--model=net.py:Book")[0] == 0


def test_a_preset_of_another_optimizer_is_no_mistake_beside_a_model_with_its_own(run):
    folder, _ = run("--config=demo", "--model=net.py:Book", "--max-epoch=1")  # demo says AdamW
    assert len(checkpoints.read(folder / "last.pth")["task"]["optimizer"]["param_groups"]) == 2


def test_a_task_beside_its_model(run, command, dogcat):
    folder, _ = run("--model=net.py:Greedy", "--lr=0.01", "--optimizer=SGD", "--max-epoch=1")
    run(f"--resume={folder}", "--max-epoch=2", "--model=net.py:Greedy", new=False)
    checkpoint = checkpoints.read(folder / "last.pth")
    assert checkpoint["trainer"]["epoch"] == 2 and checkpoint["task"]["epoch"] == -1
    assert checkpoint["metadata"]["task"] == "MyTask" and checkpoint["task"]["step"] == -checkpoint["trainer"]["step"]
    assert command("val", f"--load-path={folder}", "--model=net.py:Greedy")[0] == 0
    for name in ("test", "generate"):
        words = [f"--test-data-root={dogcat}/test1"] * (name == "test")
        code, _, err = command(name, f"--load-path={folder}", "--model=net.py:Greedy", *words)
        assert code == 2 and "nets of its task MyTask are for train and val" in err


@pytest.mark.slow
@pytest.mark.parametrize("name", torch_optim.names())
def test_every_optimizer_of_torch_trains_and_resumes(name, run):
    folder, _ = run("--model=net.py:Net", f"--optimizer={name}", "--max-epoch=1", "--lr=0.01")
    run(f"--resume={folder}", "--max-epoch=2", "--model=net.py:Net", new=False)
    assert len([event for event in record(folder) if event["kind"] == "epoch"]) == 2


def test_momentum_of_rmsprop_works(run):
    for flags, expected in (([], 0), (["--momentum=0.7"], 0.7)):
        folder, _ = run("--model=net.py:Net", "--optimizer=RMSprop", "--max-epoch=1", *flags)
        groups = checkpoints.read(folder / "last.pth")["task"]["optimizer"]["param_groups"]
        assert groups[0]["momentum"] == expected


def test_a_schedule_of_the_users(run, tmp_path):
    (tmp_path / "sched.py").write_text("def halve(progress):\n    return 1.0 if progress < 0.5 else 0.5\n")
    folder, _ = run("--model=net.py:Net", "--scheduler=sched.py:halve", "--lr=0.2")
    rates = [event["lr"] for event in record(folder) if event["kind"] == "step"]
    assert rates == [0.2] * (len(rates) // 2) + [0.1] * (len(rates) // 2)
    _, err = run(f"--resume={folder}", "--max-epoch=3", "--model=net.py:Net", new=False, code=2)
    assert "add --scheduler=sched.py:halve" in err


def test_a_metric_of_the_users_and_what_best_means(run, command, tmp_path):
    (tmp_path / "m.py").write_text(
        "calls = []\ndef odd(logits, labels):\n    calls.append(1)\n    return [0.1, 0.9, 0.5][(len(calls) - 1) % 3]\n"
    )
    flags = ["--model=net.py:Net", "--max-epoch=3", "--metrics=m.py:odd"]
    folder, out = run(*flags, "--monitor=odd")
    epochs = [event for event in record(folder) if event["kind"] == "epoch"]
    assert [event["val_odd"] for event in epochs] == [0.1, 0.9, 0.5]
    assert "best: epoch 2, odd 0.9" in out and checkpoints.read(folder / "best.pth")["trainer"]["epoch"] == 2
    code, out, _ = command("val", f"--load-path={folder}", "--model=net.py:Net", "--metrics=m.py:odd")
    assert code == 0 and "odd                " in out


def test_a_metric_that_is_always_nan_has_no_best_epoch(run, tmp_path):
    (tmp_path / "m.py").write_text("def never(logits, labels):\n    return float('nan')\n")
    folder, out = run("--model=net.py:Net", "--max-epoch=2", "--metrics=m.py:never", "--monitor=never")
    assert "best: none, as never was NaN in every epoch" in out
    assert (folder / "last.pth").exists() and not (folder / "best.pth").exists()


@pytest.mark.slow
def test_a_metric_with_a_wrong_mode_is_refused(run, tmp_path):
    (tmp_path / "m.py").write_text("def odd(logits, labels):\n    return 1.0\nodd.mode = 'mx'\n")
    _, err = run("--model=net.py:Net", "--metrics=m.py:odd", code=2)
    assert "its mode is 'mx'; give it 'max'" in err


@pytest.mark.parametrize("monitor", [name for name, m in METRICS.items() if m.mode and name != "top5"])
def test_every_metric_can_decide(monitor, run):
    folder, _ = run("--model=net.py:Net", "--max-epoch=3", f"--monitor={monitor}", "--lr=0.05")
    epochs = [event for event in record(folder) if event["kind"] == "epoch"]
    sign = 1 if METRICS[monitor].mode == "max" else -1
    best = max(epochs, key=lambda event: (sign * event[f"val_{monitor}"], -event["val_loss"], -event["epoch"]))
    assert checkpoints.read(folder / "best.pth")["trainer"]["epoch"] == best["epoch"]


SINKS = """
class Counting:
    def __init__(self):
        self.file = open("NAME", "a")
    def log_event(self, event):
        self.file.write(f"{event['kind']} {event.get('step')} {event.get('epoch')}\\n")
    def close(self):
        self.file.close()

class Broken:
    def log_event(self, event):
        if event["kind"] == "epoch":
            raise ZeroDivisionError("broken view")
"""


def test_sinks_of_the_users(run, tmp_path):
    for name in ("first", "last"):
        (tmp_path / f"{name}.py").write_text(SINKS.replace("NAME", f"{name}.txt"))
    sinks = "--sinks=first.py:Counting,first.py:Broken,last.py:Counting"
    folder, out = run("--model=net.py:Net", "--max-epoch=1", sinks)
    assert out.count("the sink Broken is closed: log_event raised ZeroDivisionError: broken view") == 1
    lines = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    for name in ("first", "last"):
        assert len((tmp_path / f"{name}.txt").read_text().splitlines()) == len(lines)
        (tmp_path / f"{name}.txt").unlink()
    run(f"--resume={folder}", "--max-epoch=2", "--model=net.py:Net", sinks, new=False)
    lines = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    for name in ("first", "last"):  # the entries so far come again, each once
        assert len((tmp_path / f"{name}.txt").read_text().splitlines()) == len(lines)


def test_frozen_weights_and_their_statistics_stand_still(run):
    folder, _ = run("--model=resnet18", "--freeze=^(?!fc)", "--max-epoch=1", "--seed=3")
    torch.manual_seed(3)
    fresh = models.build("resnet18", 2, 16).state_dict()
    net = checkpoints.read(folder / "last.pth")["net"]
    changed = [name for name in net if not torch.equal(net[name], fresh[name])]
    assert changed == ["fc.weight", "fc.bias"]


@pytest.mark.slow
def test_weights_without_options_are_labelled_with_their_models_name(run, command, dogcat, tmp_path):
    net = models.SqueezeNet(num_classes=2)
    path = net.save(tmp_path / "saved.pth")
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    wrapped = {"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    tables = []
    for name in ("saved", "plain", "wrapped"):
        words = [f"--load-path={tmp_path / name}.pth", "--model=SqueezeNet", "--image-size=32", "--amp=off"]
        code, out, err = command("test", *words, f"--test-data-root={dogcat}/test1", "--num-workers=0")
        assert code == 0 and "2 classes (cat, dog), images of 32 x 32" in out, err
        assert ("'state_dict'" in out and "'module.'" in out) == (name == "wrapped")
        tables.append((tmp_path / "result.csv").read_bytes())
        code, out, err = command("val", *words, f"--train-data-root={dogcat}/train", "--num-workers=0")
        assert code == 0 and "ROC AUC" in out, err
    assert tables[0] == tables[1] == tables[2]
    code, _, err = command("test", f"--load-path={path}", f"--test-data-root={dogcat}/test1")
    assert code == 2 and "holds weights only: say whose, as --model=ResNet34" in err


def test_options_that_a_checkpoint_answers_itself(run, command):
    folder, _ = run("--model=net.py:Net", "--max-epoch=1")
    for flag in ("--image-size=32", "--dataset=Folder", "--model-args=width=3"):
        code, _, err = command("val", f"--load-path={folder}", "--model=net.py:Net", flag)
        assert code == 2 and f"{flag.split('=')[0]} has no effect: " in err


def test_a_gan_takes_any_images_and_says_which(run, dogcat, tmp_path):
    for name, count in (("a", 3), ("b", 4)):
        (tmp_path / "mixed" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "mixed" / name / f"{i}.jpg").write_bytes((dogcat / "train" / f"cat.{i}.jpg").read_bytes())
    small = ["--ngf=4", "--ndf=4", "--nz=4", "--max-epoch=1", "--image-size=96"]
    folder, out = run("--model=AnimeGAN", f"--train-data-root={tmp_path / 'mixed'}", *small)
    assert "Unlabelled" in folder.name and "7 images" in out and "a 3" in out and "b 4" in out


def test_what_the_net_sees_is_drawn(run):
    seen = {}
    for flags in ((), ("--rotate=40",), ("--noise=0.3",), ("--mixup=5",)):
        folder, _ = run("--model=net.py:Net", "--max-epoch=1", *flags)
        image = Image.open(folder / "samples" / "augmented.png")
        assert image.size == (3 * 18 + 2, 3 * 18 + 2)  # 8 images of 16 pixels, 3 a row
        seen[flags] = image.tobytes()
    assert len(set(seen.values())) == 4


def test_timm_through_the_commands(run, command, dogcat):
    pytest.importorskip("timm")
    folder, _ = run("--model=timm/test_resnet", "--image-size=32", "--max-epoch=1")
    metadata = checkpoints.read(folder / "last.pth")["metadata"]
    own = models.preprocessing("timm/test_resnet")
    assert metadata["model"] == "timm/test_resnet" and folder.name.startswith("timm_test_resnet_")
    for name in ("mean", "std", "interpolation", "crop_pct"):
        assert metadata["preprocess"][name] == own[name]
    assert command("val", f"--load-path={folder}")[0] == 0
    assert command("test", f"--load-path={folder}", f"--test-data-root={dogcat}/test1")[0] == 0
    assert "licence" in command("help", "timm/test_resnet")[1]


SETS = """
import pathlib
import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from data.image_data import ImageData, is_image
with pathlib.Path(__file__).with_name("imported").open("a") as file:
    file.write("x")

class Arrays(Dataset):
    classes = ["dark", "bright"]

    def __init__(self, root, train=True):
        rng = np.random.default_rng(0 if train else 1)
        self.targets = [i % 2 for i in range(16 if train else 8)]
        self.images = [rng.integers(100 * i, 100 * i + 100, (20, 20, 3), dtype=np.uint8) for i in self.targets]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]

class Pictures(Arrays):
    def __getitem__(self, index):
        return Image.fromarray(self.images[index]), self.targets[index]

class Files(ImageData):
    '''The class is the first word of the name.'''
    def scan(self, root):
        paths = sorted(path for path in pathlib.Path(root).iterdir() if is_image(path))
        return ["cat", "dog"], [(path, ["cat", "dog"].index(path.name[:3])) for path in paths]
"""


def refused_unless_named(command, tmp_path, folder, flag, *commands):
    """Each of the commands is one line that says to add `flag`, and the file is not imported."""
    count = imported(tmp_path)
    for words in commands:
        code, _, err = command(*words)
        assert code == 2 and err.count("\n") == 1 and f"add {flag}" in err, err
        assert imported(tmp_path) == count
    assert (folder / "last.pth").exists()


@pytest.mark.parametrize("name", ["Arrays", "Pictures", "Files"])
def test_a_data_set_of_the_users(name, run, command, dogcat, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    (tmp_path / "sets.py").write_text(SETS)
    flag, root = f"--dataset=sets.py:{name}", f"--train-data-root={dogcat}/train"
    whole, _ = run(flag, "--model=LeNet", "--image-size=20")
    part, _ = run(flag, "--model=LeNet", "--image-size=20", "--max-epoch=1")
    resumed = [f"--resume={part}", "--max-epoch=2"]
    refused_unless_named(
        command, tmp_path, part, flag, ["train", *resumed], ["val", f"--load-path={part}", root, "--num-workers=0"]
    )
    run(*resumed, flag, new=False)
    last = [checkpoints.read(folder / "last.pth") for folder in (part, whole)]
    assert all(torch.equal(one, last[1]["net"][key]) for key, one in last[0]["net"].items())
    assert last[0]["metadata"]["classes"] == (["cat", "dog"] if name == "Files" else ["dark", "bright"])
    code, out, err = command("val", f"--load-path={part}", flag, root, "--num-workers=0")
    assert code == 0 and "accuracy" in out, err
    code, out, err = command("check", flag, root, "--model=LeNet", "--image-size=20")
    assert code == 0, out + err
    words = ["--model=LeNet", "--image-size=20", "--batch-size=4", "--num-workers=0", "--use-gpu=false"]
    code, out, err = command("bench", flag, root, *words)
    assert code == 0 and "this program / tutorial loop" in out, out + err


def test_bench_in_json_and_no_round_after_its_limit(command, dogcat, monkeypatch):
    monkeypatch.setattr(bench, "LIMIT", 0)
    words = ["--model=LeNet", "--image-size=20", "--batch-size=4", "--num-workers=0", "--use-gpu=false"]
    code, out, err = command("bench", f"--train-data-root={dogcat}/train", *words, "--json")
    told = json.loads(out)
    assert code == 0 and told["model"] == "LeNet" and told["images"] > 4 and told["device"] == "cpu"
    assert {name: len(rates) for name, rates in told["images_per_second"].items()} == dict.fromkeys(
        ("tutorial loop", "this program", "bare step"), 1
    )
    ours, theirs = (told["images_per_second"][name][0] for name in ("this program", "bare step"))
    assert told["ratios"]["bare step"] == pytest.approx(ours / theirs)
    assert err.splitlines()[1] == "a warm-up and up to 5 rounds; after 0 s none begins" and "this program / " in err


OPTIMIZER = """
import pathlib
import torch
with pathlib.Path(__file__).with_name("imported").open("a") as file:
    file.write("x")

class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, momentum=0.5):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                p.sub_(mean.sign(), alpha=group["lr"])
"""


def test_an_optimizer_of_the_users(run, command, tmp_path):
    (tmp_path / "signs.py").write_text(OPTIMIZER)
    flags = ["--model=LeNet", "--image-size=20", "--optimizer=signs.py:Signs", "--lr=0.001", "--scheduler=constant"]
    whole, _ = run(*flags, "--momentum=0.8")
    part, _ = run(*flags, "--momentum=0.8", "--max-epoch=1")
    resumed = [f"--resume={part}", "--max-epoch=2"]
    refused_unless_named(command, tmp_path, part, "--optimizer=signs.py:Signs", ["train", *resumed])
    run(*resumed, "--optimizer=signs.py:Signs", new=False)
    one, other = (trained(checkpoints.read(folder / "last.pth")) for folder in (part, whole))
    assert same(one, other)
    assert one["task"]["optimizer"]["param_groups"][0]["momentum"] == 0.8
    assert command("val", f"--load-path={part}")[0] == 0  # needs no optimizer


@pytest.mark.parametrize("scheduler", ["plateau", "cosine", "linear", "onecycle"])
def test_groups_of_the_books_optimizer_keep_their_ratio(scheduler, run, tmp_path):
    """Book, 4.3: the body learns at a tenth of the rate; a group at 0 stays where it was set up."""
    still = "{'params': self.still, 'lr': 0.0}, "
    text = NET.replace("groups = [", f"groups = [{still}").replace(
        'self.model_name = "resnet34"',
        'self.model_name = "resnet34"\n        self.still = nn.Parameter(__import__("torch").ones(1))',
    )
    (tmp_path / "net.py").write_text(
        text.replace("self.head(self.body(x).mean((2, 3)))", "self.still * self.head(self.body(x).mean((2, 3)))")
    )
    warmup = [] if scheduler == "onecycle" else ["--warmup=0.5"]
    folder, _ = run("--model=net.py:Book", f"--scheduler={scheduler}", "--lr=0.01", *warmup)
    checkpoint = checkpoints.read(folder / "last.pth")
    still, slow, fast = (group["lr"] for group in checkpoint["task"]["optimizer"]["param_groups"])
    assert still == 0 < slow == pytest.approx(fast / 10)
    assert checkpoint["net"]["still"].item() == 1


WRONG = """
import numpy as np

value = 3

def half(progress):
    return np.float32(0.5)

def below(progress):
    return progress - 0.5

def worst(logits, labels):
    return np.float32(0.25)

def words(logits, labels):
    return "good"

def unknown(logits, labels):
    return None

class NoOptimizer:
    def __init__(self, params, lr):
        pass
"""


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model=wrong.py:value"], "the model wrong.py:value is of type int: expected a class or a function"),
        (["--scheduler=wrong.py:value"], "the scheduler wrong.py:value is of type int"),
        (["--optimizer=wrong.py:value"], "the optimizer wrong.py:value is of type int"),
        (["--metrics=wrong.py:value"], "the metric wrong.py:value is of type int"),
        (["--sinks=wrong.py:value"], "the sink wrong.py:value has none of the methods log_event, replay"),
        (["--scheduler=wrong.py:below"], "gives -0.5 for a progress of 0.0: expected a number from 0 on"),
        (["--optimizer=wrong.py:NoOptimizer"], "gives a NoOptimizer, not a torch.optim.Optimizer"),
    ],
)
def test_what_is_of_another_kind_is_refused_before_there_is_a_run(flags, message, run, tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    own = [] if flags[0].startswith("--model") else ["--model=net.py:Net"]
    _, err = run(*own, *flags, code=2)
    assert message in err and not list(tmp_path.glob("checkpoints/*"))


def test_numbers_of_numpy_give_checkpoints_that_load(run, tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    flags = ["--scheduler=wrong.py:half", "--metrics=wrong.py:worst", "--monitor=worst"]
    folder, _ = run("--model=net.py:Net", "--lr=0.01", "--max-epoch=1", *flags)
    checkpoint = checkpoints.read(folder / "best.pth")
    assert checkpoint["task"]["optimizer"]["param_groups"][0]["lr"] == 0.005
    assert checkpoint["trainer"]["metrics"]["worst"] == 0.25
    run(f"--resume={folder}", "--max-epoch=2", "--model=net.py:Net", *flags[:2], new=False)
    assert [event["val_worst"] for event in record(folder) if event["kind"] == "epoch"] == [0.25, 0.25]


@pytest.mark.parametrize("name, kind", [("words", "str"), ("unknown", "NoneType")])
def test_a_metric_that_is_no_number_stops_the_run_and_its_steps_are_kept(name, kind, run, tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    _, err = run("--model=net.py:Net", f"--metrics=wrong.py:{name}", code=2)
    assert f"the metric {name} is of type {kind}: expected a number" in err
    (folder,) = tmp_path.glob("checkpoints/*")
    run(f"--resume={folder}", "--model=net.py:Net", "--metrics=wrong.py:worst", new=False)
    assert checkpoints.read(folder / "last.pth")["trainer"]["epoch"] == 2


def test_a_tensor_data_set_in_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    source = TensorDataset(torch.randint(0, 256, (24, 16, 16, 3), dtype=torch.uint8), torch.arange(24) % 3)
    small = {"image_size": 16, "num_workers": 0, "use_gpu": False}
    run = main.train(model="LeNet", dataset=source, max_epoch=1, vis_port=None, **small)
    main.train(resume=run, dataset=source, max_epoch=2)
    assert checkpoints.read(run.folder / "last.pth")["trainer"]["epoch"] == 2
    assert len(main.val(load_path=run, dataset=source, num_workers=0)["confusion"]) == 3
    assert main.check(model="LeNet", dataset=source, image_size=16, use_gpu=False) == []
    assert main.bench(model="LeNet", dataset=source, batch_size=4, **small).keys() == {"tutorial loop", "bare step"}
