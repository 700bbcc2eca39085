"""Checkpoints with a key missing, of another type or out of range, and files that are none: used, or refused in a line.

More cases, or others: FUZZ_CASES=20000 FUZZ_SEED=1 python -m pytest -q tests/test_fuzz_checkpoints.py
"""

import contextlib
import copy
import io
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections import Counter

import pytest
import torch
from conftest import picture, train_in, write_mnist

import main
from utils import checkpoints
from utils.errors import RunError, UsageError

pytestmark = pytest.mark.slow

CASES, SEED = int(os.environ.get("FUZZ_CASES", 72)), int(os.environ.get("FUZZ_SEED", 0))
NET = ["--model=small_net:SmallNet", "--image-size=28"]
GAN = ["--model=MNISTGAN", "--nz=4", "--ema=0.9", "--image-size=28"]
REMOVED = object()
MUTATIONS = {
    "removed": REMOVED,
    "None": None,
    "str": "x",
    "negative": -3,
    "empty list": [],
    "empty dict": {},
    "tensor": torch.ones(3, 2, 7),
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("digits"), 40, 20)


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """{name: the folder of a small run}; a moving average brings further states into it."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--dataset=MNIST", "--batch-size=16", f"--train-data-root={digits}"]
    return {
        "SGD": train_in(folder, *NET, *flags, "--optimizer=SGD"),
        "Adam": train_in(folder, *NET, *flags, "--optimizer=Adam", "--ema=0.9"),
        "GAN": train_in(folder, *GAN, *flags),
    }


def of_format_3(checkpoint):
    return checkpoint


def of_format_2(checkpoint):
    """As programs wrote it before: one dict for all."""
    trainer, renamed = checkpoint["trainer"], {"ema_updates": "averaged", "learning_generator": "learning"}
    return {
        "format": 2, "net": checkpoint["net"], "best_score": trainer["best_value"], "now": trainer["progress"],
        "metrics": trainer["metrics"] | {"score": 0.5},
        **{name: checkpoint["metadata"][name] for name in ("model", "num_classes", "classes", "images", "preprocess")},
        **{name: checkpoint["metadata"][name] for name in ("machine", "config")},
        **{renamed.get(name, name): value for name, value in checkpoint["task"].items()},
        **{name: trainer[name] for name in ("epoch", "step", "best_epoch", "warned")},
    }  # fmt: skip


def of_format_1(checkpoint):
    """Saved between epochs only, with torch's scheduler."""
    flat = {name: value for name, value in of_format_2(checkpoint).items() if name not in ("now", "machine")}
    return flat | {"format": 1, "scheduler": {"previous_loss": 0.5}, "threads": 2}


FORMATS = {1: of_format_1, 2: of_format_2, 3: of_format_3}


def key_path(value, rng):
    """The path of an entry of nested dicts, or of the first one of a list; the few keys near the root come often."""
    path = ()
    while True:
        entries = value if isinstance(value, dict) else dict(enumerate(value[:1])) if isinstance(value, list) else {}
        if not entries or (path and rng.random() < 0.4):
            return path
        path = (*path, rng.choice(list(entries)))
        value = entries[path[-1]]


def mutated(checkpoint, path, mutation):
    """A copy with the entry at `path` removed or replaced."""
    changed = copy.deepcopy(checkpoint)
    owner = changed
    for key in path[:-1]:
        owner = owner[key]
    if MUTATIONS[mutation] is REMOVED:
        del owner[path[-1]]
    else:
        owner[path[-1]] = MUTATIONS[mutation]
    return changed


def val(folder, named, digits):
    main.val(**named, load_path=folder, train_data_root=digits)


def predict(folder, named, digits):
    if named:
        main.test(**named, load_path=folder, test_data_root=folder / "1.png", result_file=folder / "result.csv")
    else:
        main.generate(load_path=folder, gen_num=2, gen_search_num=2, gen_img=folder / "result.png")


def resume(folder, named, digits):
    main.train(**named, resume=folder, max_epoch=2)


USES = {"val": val, "test": predict, "resume": resume}


def outcome(use, folder, named, digits):
    """What is wrong with how a folder's checkpoint is used; None where it works, or is refused in one line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            USES[use](folder, named, digits)
    except (UsageError, RunError) as e:
        return None if "\n" not in str(e) else f"several lines: {e}"
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return None


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("version", FORMATS)
def test_every_damaged_entry_is_taken_or_refused_in_one_line(version, use, runs, digits, tmp_path):
    rng, failures = random.Random(f"{SEED}/{version}/{use}"), []
    made = {name: FORMATS[version](checkpoints.read(run / "last.pth")) for name, run in runs.items()}
    for number in range(max(CASES // (len(FORMATS) * len(USES)), 1)):
        (name,) = rng.choices(list(runs), (4, 4, version > 1))  # a GAN takes long, and format 1 had none
        path, mutation = key_path(made[name], rng), rng.choice(list(MUTATIONS))
        if path[-2:-1] == ("state",) and mutation == "removed":
            continue  # a weight that has had no gradient yet has no state either
        folder = tmp_path / str(number)
        shutil.copytree(runs[name], folder, ignore=shutil.ignore_patterns("*.pth", "samples"))
        checkpoints.write(mutated(made[name], path, mutation), folder / "last.pth")
        picture(folder / "1.png")
        if wrong := outcome(use, folder, {} if name == "GAN" else {"model": "small_net:SmallNet"}, digits):
            failures.append((wrong.partition(":")[0], f"{name} {'.'.join(map(str, path))} {mutation}: {wrong}"))
        shutil.rmtree(folder)
    kinds = dict(Counter(kind for kind, _ in failures))
    assert not failures, f"{len(failures)} of {number + 1}, {kinds}:\n" + "\n".join(line for _, line in failures)


def zipped(content):
    """A file as torch writes it, whose pickle is `content`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def itself():
    content = {"epoch": 1}
    content["model"] = content
    return content


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def without_storage():
    """A file of torch's that lacks the bytes of a tensor."""
    file, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(4)})))
    with zipfile.ZipFile(file, "w") as archive:
        for name in source.namelist():
            if "/data/" not in name:
                archive.writestr(name, source.read(name))
    return file.getvalue()


def storage(count):
    """The pickle of a storage that says that it holds `count` numbers, and a tensor on it."""
    kind = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    size = pickle.dumps(count, 2)[2:-1]
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("
        + kind
        + size
        + b"tQK\x00"
        + size
        + b"\x85K\x01\x85\x89Ntq\x00R."
    )


LONG = struct.pack("<Q", 2**62)
PICKLES = {
    "nothing": b"",
    "protocol alone": b"\x80\x02",
    "no end": b"\x80\x02}q\x00",
    "no stack": b"\x80\x02.",
    "unknown opcodes": b"\x80\x02" + b"\xff" * 20,
    "wrong order": b"\x80\x02" + b"s" * 20,
    "no mark": b"\x80\x02u.",
    "memo that was not stored": b"\x80\x02h\x05.",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "long text": b"\x80\x04\x8d" + LONG + b"abc.",
    "long bytes": b"\x80\x04\x8e" + LONG + b"abc.",
    "long number": b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "text that is no UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "half a float": b"\x80\x02G\x00\x00",
    "half a number": b"\x80\x02J\x00",
    "build of a number": b"\x80\x02K\x01}b.",
    "tensor of nothing": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "ordered dict of a number": b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
    "reduce of a number": b"\x80\x02K\x01)R.",
    "persistent id that is a number": b"\x80\x02K\x01Q.",
    "persistent id that is short": b"\x80\x02X\x07\x00\x00\x00storage\x85Q.",
    "items of a number": b"\x80\x02K\x01(K\x01K\x02u.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "name without a module": b"\x80\x02cnone\nnone\n.",
    "name of one line": b"\x80\x02ctorch",
    "storage of too many numbers": storage(2**40),
    "storage of a negative number": storage(-5),
    "number for a dict": b"\x80\x02K\x01.",
}
FILES = {
    "text": b"these are no weights\n" * 50,
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a tar": b"net.pth".ljust(257, b"\0") + b"ustar\x0000" + bytes(1000),
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "cut": saved({"w": torch.ones(100)})[:300],
    "no bytes of a tensor": without_storage(),
    "a dict in itself": saved(itself()),
    "keys that are numbers": saved({1: torch.ones(2)}),
    "a state dict of dicts of numbers": saved({"model": {"a": 1}}),
    "format of another program": saved({"format": "pt", "epoch": 1}),
    "format as a tensor": saved({"format": torch.ones(3), "net": {}}),
    "format below 0": saved({"format": -1, "net": {}}),
    **{f"{kind}, bare": content for kind, content in PICKLES.items()},
    **{f"{kind}, zipped": zipped(content) for kind, content in PICKLES.items()},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(kind, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(FILES[kind])
    with pytest.raises(UsageError) as error:
        checkpoints.read(path)
    assert "a.pth" in str(error.value) and "\n" not in str(error.value)
