"""Several processes give the numbers of one. In float64: in float32 a net with BatchNorm is chaos after a few steps."""

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from several import train
from test_docs import read, write_files

from data.demo import drawing
from utils import checkpoints

RESNET = ["--model=timm/test_resnet", "--optimizer=SGD", "--lr=0.001", "--batch-size=8", "--max-epoch=2"]
GAN = ["--model=AnimeGAN", "--dataset=Unlabelled", "--image-size=96", "--ngf=4", "--ndf=4"]
DROP_PATH = [
    "--model=timm/test_convnext",
    "--image-size=32",
    "--model-args=drop_path_rate=0.3",
    "--optimizer=SGD",
    "--lr=1e-4",
]
LBFGS = ["--optimizer=LBFGS", "--max-epoch=1", "--batch-size=26", "--freeze=blocks.1"]
# what each does: 12 steps or more (but LBFGS, which takes many in one), of DigitNet unless it says otherwise
CASES = {
    "plain": [*RESNET, "--image-size=64"],
    "mixup": ["--mixup=0.2"],
    "cutmix, or mixup": ["--cutmix=1", "--mixup=0.2"],
    "accumulate": ["--accumulate=3", "--mixup=0.2"],
    "balance=loss, label smoothing": ["--balance=loss", "--label-smoothing=0.1"],
    "balance=sampler": ["--balance=sampler"],
    "clip, EMA": ["--clip-grad=0.5", "--ema=0.9"],
    "dropout, AdamW": ["--model=SqueezeNet", "--image-size=32", "--optimizer=AdamW"],
    "Muon, augmentation": ["--optimizer=Muon", "--flip", "--shift=2", "--cutout=4"],
    "progressive resizing": ["--model=SqueezeNet", "--image-size=32", "--progressive-resizing=0.5"],
    "stochastic depth": DROP_PATH,
    "LBFGS, frozen": LBFGS,
    "fewer images than processes": ["--image-size=32", "--batch-size=2", "--mixup=0.2", "--max-epoch=1"],
    "GAN": [*GAN, "--d-shift=4", "--g-every=2", "--ema=0.9"],
}
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """37 cats and 37 dogs, of which 52 are learned from and 22 validate."""
    root = tmp_path_factory.mktemp("images")
    drawing.write(root, train_per_class=37, test=1)
    (root / "train" / "dog.36.jpg").unlink()  # so that --balance has something to do
    return root / "train"


def numbers(run: Path) -> list[dict]:
    """The steps and epochs of a record, without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["kind"] in ("step", "epoch")]
    return [{k: v for k, v in line.items() if k not in ("time", "rate", "seconds")} for line in told]


def apart(one, other) -> float:
    """The largest relative difference of numbers in equal places; fails where anything else differs."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((apart(one[k], other[k]) for k in one), default=0.0)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max((apart(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float):
        return abs(one - other) / max(abs(one), abs(other), 1e-9)
    assert one == other
    return 0.0


def weights_apart(one: Path, other: Path) -> float:
    nets = [checkpoints.read(run / "last.pth")["net"] for run in (one, other)]
    assert nets[0].keys() == nets[1].keys()
    pairs = [(a.double(), b.double()) for a, b in zip(nets[0].values(), nets[1].values(), strict=True)]
    return max(((a - b).norm() / a.norm().clamp(min=1e-9)).item() for a, b in pairs)


@pytest.mark.parametrize("use_gpu", [False, pytest.param(True, marks=on_gpu)])
@pytest.mark.parametrize("name", CASES)
def test_several_processes_give_the_numbers_of_one(name, use_gpu, images, tmp_path):
    flags = [f"--train-data-root={images}", f"--use-gpu={use_gpu}", *CASES[name]]
    trained = [train(tmp_path / str(processes), processes, *flags) for processes in (1, 2, 3)]
    assert [some.codes for some in trained] == [[0], [0, 0], [0, 0, 0]], str(trained)
    one, *others = (some.run for some in trained)
    for other in others:
        found = {"numbers": apart(numbers(one), numbers(other)), "weights": weights_apart(one, other)}
        print(
            f"{name:<32} {other.parent.name} processes  numbers {found['numbers']:.1e}  weights {found['weights']:.1e}"
        )
        assert found["numbers"] < 1e-9 and found["weights"] < 1e-8
    pictures = [
        sorted((path.name, path.read_bytes()) for path in (run / "samples").iterdir()) for run in (one, *others)
    ]
    assert pictures[0] == pictures[1] == pictures[2] or name == "GAN"


def test_so_does_a_task_of_yours_written_as_the_docs_show(images, tmp_path):
    write_files(read(ROOT / "docs" / "extending.md"), tmp_path)
    flags = [f"--model={tmp_path}/autoencoder.py:Autoencoder", f"--train-data-root={images}", "--batch-size=25"]
    one, two = (train(tmp_path / str(processes), processes, *flags) for processes in (1, 2))
    assert [one.codes, two.codes] == [[0], [0, 0]], (one, two)
    assert apart(numbers(one.run), numbers(two.run)) < 1e-9 and weights_apart(one.run, two.run) < 1e-8
