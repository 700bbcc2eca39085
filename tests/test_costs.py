"""What a net and a run cost: `summary`, `train --dry-run`, `train --profile`."""

import gzip
import json
import re
import time
from pathlib import Path

import pytest
import torch
import yaml
from compare import same, trained
from conftest import TINY, train_in
from torch import nn
from torchvision.models import get_model_weights

import data
import main
import models
from analysis.layer_tree import layers
from analysis.step_memory import measure, without_data
from data.image_dataset import ImageDataset
from data.torchvision_table import COUNTS, TABLE
from engine import profiler
from engine.tasks.classify import Classify
from models.building import on_meta
from utils import checkpoints

SMALL = "--model=small_net:SmallNet"


class Looks(nn.Module):
    """Does not run without data: it looks at a number."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1) * (2 if x.sum().item() > 0 else 1))


def summary(command, *flags: str) -> str:
    code, out, err = command("summary", *flags)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    return out


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32", "squeezenet1_1"])
def test_multiply_adds_are_those_that_torchvision_publishes(name):
    meta = get_model_weights(name).DEFAULT.meta
    net = on_meta(name, 1000, 224)
    root = layers(net, lambda: net(torch.empty(1, 3, 224, 224, device="meta")))
    assert root.multiply_adds / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)
    assert root.parameters == meta["num_params"]


def test_a_layer_counts_what_is_computed(command):
    out = summary(command, SMALL, "--image-size=32", "--amp=off", "--use-gpu=false", "--batch-size=8")
    # conv: 16 maps of 15 x 15 from 3 x 3 x 3 pixels; fc: 16 to 2
    assert re.search(r"^  conv +Conv2d +16x15x15 +448 +97.2 k$", out, re.MULTILINE)
    assert re.search(r"^  fc +Linear +2 +34 +32$", out, re.MULTILINE)
    assert "parameters     514: 514 learn, 0 are frozen" in out


def test_the_command_returns_its_numbers():
    found = main.summary(model="small_net:SmallNet", image_size=32, amp="off", use_gpu=False, freeze="conv")
    assert (found["parameters"], found["trainable"], found["multiply_adds"]) == (514, 66, 97_200 + 32)
    assert found["gradients"] == 4 * 66
    sgd = main.summary(model="small_net:SmallNet", image_size=32, optimizer="SGD", momentum=0, amp="off", use_gpu=False)
    assert sgd["optimizer"] == 0 and found["optimizer"] > 0


@pytest.mark.parametrize("amp", [False, True])
def test_the_activations_are_those_of_a_step_with_data(amp):
    def kept(net, mode, device):
        def forward():
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                return net(torch.ones(4, 3, 64, 64, device=device)).float().sum()

        return measure(net, forward, lambda: [torch.optim.Adam(net.parameters())], mode)

    torch.manual_seed(0)
    real = kept(models.build("resnet18", 2, 64).train(), None, torch.device("cpu"))
    free = kept(*without_data(on_meta("resnet18", 2, 64).train(), torch.device("cpu")), torch.device("cpu"))
    assert free.activations == pytest.approx(real.activations, rel=1e-3) and real.activations > 0
    assert (free.weights, free.gradients, free.optimizer) == (real.weights, real.gradients, real.optimizer)


def test_a_net_that_looks_at_numbers_runs_on_the_cpu(command):
    found = summary(command, "--model=test_costs:Looks", "--image-size=16")
    assert "run on the CPU, as it does not run without data" in found
    assert re.search(r"^  fc +Linear +2 +1,538 +1.54 k$", found, re.MULTILINE)


def test_alike_layers_are_one_row_and_deep_nets_are_cut(command):
    out = summary(command, "--model=resnet152", "--dataset=ImageNet", "--batch-size=1")
    assert re.search(r"^    1 x35 +Bottleneck +1024x14x14 ", out, re.MULTILINE)
    assert len(out.splitlines()) < 50 and "60,192,808" in out


def test_a_gan_shows_both_nets(command):
    out = summary(command, "--model=MNISTGAN", "--dataset=MNIST", "--nz=10")
    assert re.search(r"^  generator +Sequential +1x28x28 ", out, re.MULTILINE)
    assert re.search(r"^  discriminator +Sequential +1 ", out, re.MULTILINE)


def test_the_net_of_a_run(tiny_run, command):
    out = summary(command, f"--load-path={tiny_run}")
    assert out.startswith("MNISTNet: 2 classes, images of 3 x 32 x 32\n") and "653,072" in out
    assert summary(command, f"--load-path={tiny_run}/last.pth").splitlines()[1:] == out.splitlines()[1:]


def test_class_counts_are_known_without_data():
    from torchvision import datasets

    assert COUNTS.keys() == TABLE.keys()
    for name, spec in TABLE.items():
        classes = spec.classes or getattr(getattr(datasets, name), "classes", None)
        if isinstance(classes, (list, tuple)) and name != "EMNIST":
            assert COUNTS[name] == len(classes)
    assert data.CIFAR10.image_size == 32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=ResNet43"], "unknown model 'ResNet43'"),
        (["--dataset=Folder"], "how many classes Folder has its folder tells: give it as --train-data-root=DIR"),
        (["--lr=0.1"], "--lr has no effect on summary"),
        (["--model=resnet18", "--nz=3"], "--nz has no effect on resnet18"),
        (["--model=AlexNet", "--image-size=8"], "AlexNet cannot take images of 8x8 pixels"),
        (["--load-path=nowhere"], "no checkpoint nowhere"),
        (["--freeze=nothing"], "--freeze=nothing: no weight matches"),
    ],
)
def test_mistakes_of_summary(flags, message, command):
    code, out, err = command("summary", *flags)
    assert code == 2 and message in err and err.count("\n") == 1


# ---- train --dry-run


def dry_run(command, folder: Path, *flags: str) -> tuple[int, str, str]:
    given = {flag.split("=")[0] for flag in flags}
    own = [flag for flag in TINY if flag.split("=")[0] not in given]
    return command("train", "--dry-run", *own, f"--checkpoint-dir={folder}", *flags)


def test_a_dry_run_leaves_nothing(dogcat, command, tmp_path):
    code, out, err = dry_run(command, tmp_path / "runs", f"--train-data-root={dogcat}/train", "--max-epoch=7")
    assert code == 0, err
    assert re.search(r"^time .* for 7 epochs, 14 steps$", out, re.MULTILINE)  # 16 images in batches of 8
    assert re.search(r"^disk +\d+ MiB: 4 checkpoints", out, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_the_size_of_the_checkpoints_and_the_time(dogcat, tmp_path):
    flags = {name.strip("-").replace("-", "_"): value for name, _, value in (flag.partition("=") for flag in TINY)}
    flags |= {"model": SMALL.partition("=")[2], "train_data_root": f"{dogcat}/train", "checkpoint_dir": str(tmp_path)}
    found = main.train(**flags, dry_run=True)
    assert found["fastest"] <= found["seconds"] <= found["slowest"]
    run = main.train(**flags).folder
    size = (run / "last.pth").stat().st_size
    assert 4 * size <= found["disk"] < 4 * size + 2**20


def test_a_dry_run_of_both_sizes_and_of_the_rest_of_a_run(dogcat, command, tmp_path):
    data_root = f"--train-data-root={dogcat}/train"
    out = dry_run(
        command, tmp_path / "runs", data_root, "--max-epoch=4", "--progressive-resizing=0.5", "--model=resnet18"
    )[1]
    assert re.search(r"a step with its images [\d.]+ ms, then [\d.]+ ms;", out)
    run = train_in(tmp_path / "runs", data_root, SMALL)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    words = ("train", f"--resume={run}", SMALL, "--dry-run")
    code, out, err = command(*words, "--max-epoch=4")
    assert code == 0 and "for 3 epochs, 6 steps" in out, err
    assert command(*words)[2] == "main.py: --dry-run: the 1 epochs are done: give more, as --max-epoch=2\n"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_dry_run_fails_as_the_training_would(dogcat, command, tmp_path):
    for flags in (["--model=AlexNet"], ["--monitor=nothing"], ["--shift=40"], ["--train-data-root=nowhere"]):
        flags = [f"--train-data-root={dogcat}/train"] * ("nowhere" not in flags[0]) + flags
        dry = dry_run(command, tmp_path / "runs", *flags)
        own = [flag for flag in TINY if flag.split("=")[0] not in {f.split("=")[0] for f in flags}]
        assert dry == command("train", *own, f"--checkpoint-dir={tmp_path / 'runs'}", *flags) and dry[0] == 2
    assert "--profile has no effect" in dry_run(command, tmp_path, "--profile")[2]
    assert not list(tmp_path.iterdir())


# ---- train --profile

FLAGS = [SMALL, "--image-size=16", "--batch-size=2", "--max-epoch=3"]  # 8 steps an epoch


@pytest.fixture
def plain(dogcat, tmp_path) -> Path:
    return train_in(tmp_path / "plain", *FLAGS, f"--train-data-root={dogcat}/train")


def parts(run: Path) -> dict[str, float]:
    text = (run / "profile" / "profile.txt").read_text().split("\n\n")[0]
    return {name.strip(): float(ms) for name, ms in re.findall(r"^(.*?) +([\d.]+) +[\d.]+%$", text, re.MULTILINE)}


def test_a_profiled_training_ends_with_the_same_weights(dogcat, plain, tmp_path):
    run = train_in(tmp_path / "profiled", *FLAGS, f"--train-data-root={dogcat}/train", "--profile")
    one, other = (checkpoints.read(folder / "last.pth") for folder in (plain, run))
    assert same(trained(one), trained(other))
    trace = run / "profile" / "trace.json"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"forward", "backward", "optimizer", "waiting for data", "aten::linear"} <= names
    assert (run / "profile" / "profile.txt").read_text().split("\n\n")[0] in (run / "log.txt").read_text()
    assert parts(run).keys() == {*profiler.PARTS, "a step"}
    assert sorted(path.name for path in (run / "profile").iterdir()) == ["profile.txt", "trace.json"]
    # nothing of it stays hooked, or in the run's options
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert not nn.modules.module._global_forward_pre_hooks and not nn.modules.module._global_forward_hooks
    options = yaml.safe_load((run / "config.yaml").read_text())
    assert not {"profile", "dry_run"} & {*options, *one["metadata"]["config"], *other["metadata"]["config"]}


@pytest.mark.slow
def test_the_parts_add_up_to_the_step(dogcat, tmp_path, monkeypatch):
    taken = []
    original = Classify.train_step

    def step(self, batch):
        taken.append(time.perf_counter())
        return original(self, batch)

    monkeypatch.setattr(Classify, "train_step", step)
    flags = ["--image-size=64", "--batch-size=4", "--max-epoch=4", f"--train-data-root={dogcat}/train"]
    found = parts(
        train_in(tmp_path, *flags, "--profile", "--model=squeezenet1_1", "--val-fraction=0.1", "--print-freq=100")
    )
    assert sum(found[part] for part in profiler.PARTS) == pytest.approx(found["a step"], abs=0.05)
    # steps 6 to 10 lie in the second epoch: from the start of one to that of the next
    seconds = (taken[9] - taken[6]) / 3
    assert found["backward"] > found["forward"] > found["optimizer"]
    assert 0.3 * seconds < found["a step"] / 1000 < 3 * seconds


@pytest.mark.slow
def test_what_is_slow_shows(dogcat, tmp_path, monkeypatch):
    flags = [*FLAGS, f"--train-data-root={dogcat}/train", "--profile", "--cache=off"]
    fetch, forward = ImageDataset.__getitem__, nn.Linear.forward

    def slow_read(self, key):
        time.sleep(0.02)
        return fetch(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(ImageDataset, "__getitem__", slow_read)
        found = parts(train_in(tmp_path / "a", *flags))
    assert found["waiting for data"] > 40 and found["waiting for data"] > 0.5 * found["a step"]

    def slow_forward(self, x):
        time.sleep(0.1)
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", slow_forward)
        found = parts(train_in(tmp_path / "b", *flags))
    assert found["forward"] > 100 and found["forward"] > 0.5 * found["a step"]


def test_a_short_run_profiles_what_there_is(dogcat, command, tmp_path):
    for batch, steps in ((2, 8), (8, 2), (16, 1)):
        flags = ["--image-size=16", SMALL, f"--batch-size={batch}", f"--train-data-root={dogcat}/train", "--profile"]
        own = [flag for flag in TINY if flag.split("=")[0] not in {f.split("=")[0] for f in flags}]
        code, out, err = command("train", *own, f"--checkpoint-dir={tmp_path / str(steps)}", *flags)
        assert code == 0 and "--profile: a run this short" in out and "a step" in out, err


def test_a_large_trace_is_packed(dogcat, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.profile_report.LARGE", 1000)
    run = train_in(tmp_path, *FLAGS, f"--train-data-root={dogcat}/train", "--profile")
    with gzip.open(run / "profile" / "trace.json.gz") as file:
        assert json.load(file)["traceEvents"]
    assert len(list((run / "profile").iterdir())) == 2


@pytest.mark.slow
def test_a_gan_is_profiled(train, tmp_path):
    flags = [
        "--model=MNISTGAN",
        "--dataset=MNIST",
        "--image-size=28",
        "--batch-size=16",
        "--max-epoch=1",
        "--profile",
        "--nz=8",
    ]
    run = train(*flags)[1]
    found = parts(run)
    assert found["forward"] > 0 and found["backward"] > 0 and found["optimizer"] > 0


def test_a_profile_that_cannot_be_written_stops_nothing(dogcat, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.profiler.write_trace", fail)
    run = train_in(tmp_path, *FLAGS, f"--train-data-root={dogcat}/train", "--profile")
    assert "warning: no profile: OSError" in (run / "log.txt").read_text()
    assert checkpoints.read(run / "last.pth")["trainer"]["epoch"] == 3
