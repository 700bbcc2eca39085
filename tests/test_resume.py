"""Going on with a run: to the same weights, record and best, bit for bit, wherever it was stopped."""

import json
import os
import shutil
import signal

import pytest
import torch
from conftest import picture, unless_given

from data.transforms import Preprocess
from engine.classify import Classify
from utils import checkpoint

# BatchNorm and dropout, 2 epochs of 3 steps (16 training images in batches of 6, 6, 4).
SMALL = ["--model=mobilenet_v3_small", "--image-size=32", "--batch-size=6", "--max-epoch=2", "--num-workers=0"]
SMALL += ["--use-gpu=false", "--amp=off", "--vis-port=None", "--scheduler=cosine", "--lr=0.01"]
TIMES = ("time", "seconds", "rate")


@pytest.fixture
def train(command, dogcat, tmp_path):
    """Trains with SMALL and flags in this process: (exit code, stdout, stderr, run folder)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*flags):
        given = unless_given(SMALL, flags) if not any("resume" in flag for flag in flags) else []
        root = [] if any("resume" in f or "root" in f for f in flags) else [f"--train-data-root={dogcat}/train"]
        code, out, err = command("train", *given, *root, f"--checkpoint-dir={tmp_path / 'runs'}", *flags)
        runs = sorted((tmp_path / "runs").glob("*"), key=lambda p: (p / "config.yaml").stat().st_ctime)
        return code, out, err, runs[-1] if runs else None

    yield run
    torch.set_num_threads(before)


@pytest.fixture
def stop_at(monkeypatch):
    """Makes this process send itself SIGTERM the first time that a place is reached."""

    def arm(place, number=signal.SIGTERM):
        owner, name, call = PLACES[place]
        original, calls = getattr(owner, name), []

        def method(*args, **kwargs):
            calls.append(1)
            if len(calls) == call:
                signal.raise_signal(number)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, method)

    return arm


# place: (class, method, which call of it)
PLACES = {
    "first image": (Preprocess, "train", 1),
    "first step": (Classify, "train_step", 1),
    "step 2": (Classify, "train_step", 2),
    "last step of the epoch": (Classify, "train_step", 3),
    "validation": (Preprocess, "eval", 3),
    "second epoch": (Classify, "train_step", 5),
}


def record(run):
    """The steps and epochs of the record, without times."""
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in e.items() if k not in TIMES} for e in events if e["kind"] in ("step", "epoch")]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_end(run, whole, but=("config",)):
    assert record(run) == record(whole)
    for name in ("last.pth", "best.pth"):
        ours, theirs = checkpoint.read(run / name), checkpoint.read(whole / name)
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - set(but):
            assert same(ours[key], theirs[key]), (name, key)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """A place for uninterrupted runs that several tests compare with."""
    return {"folder": tmp_path_factory.mktemp("wholes")}


def whole_run(train, wholes, *flags):
    if flags not in wholes:
        code, _, err, run = train(*flags)
        assert code == 0, err
        wholes[flags] = shutil.copytree(run, wholes["folder"] / str(len(wholes)))
        shutil.rmtree(run)
    return wholes[flags]


@pytest.mark.parametrize("place", PLACES)
def test_stopped_anywhere_it_goes_on_bit_for_bit(place, train, stop_at, wholes, monkeypatch):
    whole = whole_run(train, wholes)
    with monkeypatch.context():
        stop_at(place)
        code, out, _, run = train()
    monkeypatch.undo()
    assert code == 143 and f"--resume={run}" in out
    code, out, err, _ = train(f"--resume={run}")
    assert code == 0, err
    assert "what differs" not in out and "going on with" in out
    assert_same_end(run, whole)
