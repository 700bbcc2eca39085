"""A small data set and a small run for the tests; everything is made in temporary folders."""

import contextlib
import gc
import io
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

# many tests fork, which a process that has used a GPU cannot do
if "TEST_GPU" in os.environ:
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # to ask whether there is one is to use it, else
else:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pytest
import torch
from compare import record, same, trained
from PIL import Image

import main
import models
from cli import parsing, presets
from cli.resolve import resolve
from commands import sweep
from config import Config
from data.demo import drawing
from sweeps import space
from utils import checkpoints

# Several tests run at a time: threads of one would wait for those of the others. Started processes inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("PYTHONUNBUFFERED", None)  # users have it seldom, and where output cannot be written it matters
torch.set_num_threads(1)

# What ran these tests may ignore them (nohup, a script's background job), and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector need not look at it again in every test."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


ROOT = Path(__file__).resolve().parent.parent
COUNT = 12  # images a class

# One tiny training: CPU, float32, one worker-free epoch, no visdom.
TINY = [
    "--model=MNISTNet",
    "--image-size=32",
    "--batch-size=8",
    "--max-epoch=1",
    "--num-workers=0",
    "--use-gpu=false",
    "--amp=off",
    "--vis-port=None",
]


@pytest.fixture(scope="session")
def dogcat(tmp_path_factory) -> Path:
    """A folder in Kaggle's layout: train/cat.0.jpg ..., test1/1.jpg ..."""
    root = tmp_path_factory.mktemp("data") / "dogcat"
    drawing.write(root, train_per_class=COUNT, test=10)
    return root


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    """A folder with one folder a class, three classes."""
    root = tmp_path_factory.mktemp("data") / "folders"
    for name in ("bird", "cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(COUNT):
            drawing.draw("cat" if name == "cat" else "dog", Random(f"{name}{i}")).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `main.py WORDS` in this process; returns (exit code, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        try:
            main.main()
            code = 0
        except SystemExit as e:
            code = e.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def train(command, mnist, tmp_path, request):
    """Trains on small digits in this process, with the test file's FLAGS; returns (stdout, run folder)."""

    def run(*flags):
        new = unless_given([*request.module.FLAGS, f"--train-data-root={mnist}"], flags)
        given = [] if any("resume" in f for f in flags) else new
        code, out, err = command("train", *given, f"--checkpoint-dir={tmp_path / 'runs'}", *flags)
        assert code in (0, 143), err
        return out, sorted((tmp_path / "runs").glob("*"), key=lambda p: (p / "config.yaml").stat().st_ctime)[-1]

    return run


@pytest.fixture(scope="session")
def tiny_run(dogcat, tmp_path_factory) -> Path:
    """The run folder of one tiny training."""
    return train_in(tmp_path_factory.mktemp("runs"), f"--train-data-root={dogcat}/train")


def train_in(folder: Path, *flags: str) -> Path:
    """Trains in this process with TINY and `flags`; returns the run folder."""
    words = [*unless_given(TINY, flags), f"--checkpoint-dir={folder}", *flags]
    _, _, options = parsing.parse(["train", *words], main.COMMANDS)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main.train(**options).folder


def resumes_bit_for_bit(task: type, at: int, train: Callable, flags: tuple[str, ...], monkeypatch) -> None:
    """A run that is stopped in step `at` of the task, and gone on with, must leave what an undisturbed one leaves."""
    whole = train(*flags)[1]
    original, calls = task.train_step, []

    def step(self, batch):
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(task, "train_step", step)
        run = train(*flags)[1]
    assert run != whole and checkpoints.read(run / "last.pth")["trainer"]["step"] == at
    train(f"--resume={run}")
    assert record(run) == record(whole)
    for name in ("last.pth", "best.pth"):
        one, other = checkpoints.read(run / name), checkpoints.read(whole / name)
        assert same(trained(one), trained(other))
    for path in (whole / "samples").iterdir():
        assert path.read_bytes() == (run / "samples" / path.name).read_bytes()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the lock of a file, as a training does that of its log."""
    import fcntl

    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        fcntl.lockf(file := path.open("a"), fcntl.LOCK_EX)
        os.write(write, b"x")
        signal.pause()
        os._exit(file.fileno())
    os.read(read, 1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


def resolve_any(command: str, flags: dict) -> None:
    """Resolves the options of a command; those of a sweep may be ranges."""
    if command == "sweep":
        flags, theirs = sweep.split(flags)
        space.check(*space.split(theirs))
    if command != "help":
        resolve(command, flags)


def unless_given(defaults: list[str], flags: tuple[str, ...]) -> list[str]:
    given = {flag.split("=")[0] for flag in flags}
    return [flag for flag in defaults if flag.split("=")[0] not in given]


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 30)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file as MNIST has them: magic number with type and dimensions, sizes, bytes."""
    path.write_bytes(struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes())


@pytest.fixture(scope="session")
def mnist(tmp_path_factory) -> Path:
    """A root with MNIST's files: 240 images to train, 60 to test."""
    return write_mnist(tmp_path_factory.mktemp("mnist"), 240, 60)


def write_mnist(root: Path, train: int, test: int) -> Path:
    """MNIST's files with so many images: a bright bar in noise whose place is the class."""
    rng = np.random.default_rng(0)
    (root / "MNIST" / "raw").mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 80, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 3 : 2 * label + 6, 6:22] = 250
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return root


def presets_of(task: str) -> list[str]:
    """The presets whose model belongs to the task."""
    names = {name: presets.read(name).get("model", (Config().model, ""))[0] for name in presets.names()}
    return [name for name, model in names.items() if models.task_of(model) == task]
