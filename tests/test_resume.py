"""Going on with a run: to the same weights, record and best, bit for bit, wherever it was stopped."""

import shutil
import signal

import pytest
import torch
from compare import record, same, trained
from conftest import locked, picture, unless_given

from data.transforms import Preprocess
from engine.tasks.classify import Classify
from utils import checkpoints

NET = "--model=small_net:SmallNet"
# 2 epochs of 3 steps (16 training images in batches of 6, 6, 4).
SMALL = [NET, "--image-size=32", "--batch-size=6", "--max-epoch=2", "--num-workers=0"]
SMALL += ["--use-gpu=false", "--amp=off", "--vis-port=None", "--scheduler=cosine", "--lr=0.01"]


@pytest.fixture
def train(command, dogcat, tmp_path):
    """Trains with SMALL and flags in this process: (exit code, stdout, stderr, run folder)."""

    def run(*flags):
        given = unless_given([NET] if any("resume" in flag for flag in flags) else SMALL, flags)
        root = [] if any("resume" in f or "root" in f for f in flags) else [f"--train-data-root={dogcat}/train"]
        code, out, err = command("train", *given, *root, f"--checkpoint-dir={tmp_path / 'runs'}", *flags)
        runs = sorted((tmp_path / "runs").glob("*"), key=lambda p: (p / "config.yaml").stat().st_ctime)
        return code, out, err, runs[-1] if runs else None

    return run


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
    "validation": (Classify, "evaluate", 1),
    "second epoch": (Classify, "train_step", 5),
}


def assert_same_end(run, whole, but=()):
    """`but`: keys of the metadata that may differ."""
    assert record(run) == record(whole)
    for name in ("last.pth", "best.pth"):
        ours, theirs = (trained(checkpoints.read(folder / name)) for folder in (run, whole))
        for metadata in (ours["metadata"], theirs["metadata"]):
            for key in but:
                metadata.pop(key)
        assert ours.keys() == theirs.keys()
        for key in ours:
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
    assert "what differs" not in out and "resuming from" in out
    assert_same_end(run, whole)


@pytest.mark.parametrize("place", ["step 2", "validation", "second epoch"])
def test_with_workers_in_bfloat16_and_with_another_number_of_workers(place, train, stop_at, wholes, monkeypatch):
    flags = ("--amp=bf16", "--num-workers=2")
    whole = whole_run(train, wholes, *flags)
    with monkeypatch.context():
        stop_at(place)
        code, _, _, run = train(*flags)
    monkeypatch.undo()
    assert code == 143
    code, out, err, _ = train(f"--resume={run}", "--num-workers=1")
    assert code == 0 and "num_workers: 2 -> 1" in out, err
    assert_same_end(run, whole)


def test_no_image_is_decoded_again_only_to_be_skipped(train, stop_at, monkeypatch):
    with monkeypatch.context():
        stop_at("step 2")
        run = train()[3]
    monkeypatch.undo()
    read, original = [], Preprocess.train

    def noted(self, path, key):
        read.append((key.split("/")[1], path.name))
        return original(self, path, key)

    monkeypatch.setattr(Preprocess, "train", noted)
    assert train("--resume=last")[0] == 0
    assert len([name for epoch, name in read if epoch == "0"]) == 4  # of 16, 12 had been seen
    assert len({name for epoch, name in read if epoch == "1"}) == 16
    assert [event["step"] for event in record(run) if event["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_what_differs_is_listed_and_flags_win(train, stop_at, monkeypatch, dogcat, tmp_path):
    images = shutil.copytree(dogcat / "train", tmp_path / "images")
    with monkeypatch.context():
        stop_at("step 2")
        run = train(f"--train-data-root={images}")[3]
    monkeypatch.undo()
    picture(images / "cat.900.jpg")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    code, out, err, _ = train(f"--resume={run}", "--lr=0.002", "--max-epoch=3", "--batch-size=4", "--save-every=7")
    assert code == 0, err
    listed = out.partition("what differs")[2].splitlines()[1:8]
    assert [line.split(":")[0].strip() for line in listed[:4]] == ["batch_size", "max_epoch", "lr", "save_every"]
    assert "  lr: 0.01 -> 0.002" in listed and "  training images: 16 -> 17" in listed
    assert any(line.startswith("  threads: 1 -> 7 (so the last bits") for line in listed)
    config = (run / "config.yaml").read_text()
    assert "lr: 0.002" in config and "max_epoch: 3" in config and "resume: null" in config
    content = checkpoints.read(run / "last.pth")
    assert content["trainer"]["epoch"] == 3 and content["metadata"]["config"]["lr"] == 0.002
    lrs = [event["lr"] for event in record(run) if event["kind"] == "step"]
    assert lrs[1] > 0.005 > 0.002 > lrs[2]


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--model=resnet18"], "was trained with model small_net:SmallNet, not resnet18"),
        (["--seed=4"], "trained with seed 0, not 4"),
        (["--optimizer=SGD"], "trained with optimizer Adam, not SGD"),
        (["--load-path=x.pth"], "leave out --load-path"),
        (["--dataset=Folder", "--train-data-root={folders}"], "was trained on the classes ['cat', 'dog']"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(flags, said, train, stop_at, monkeypatch, folders):
    with monkeypatch.context():
        stop_at("step 2")
        run = train()[3]
    monkeypatch.undo()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    code, _, err, _ = train(f"--resume={run}", *[flag.format(folders=folders) for flag in flags])
    assert code == 2 and said in err and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_another_model_of_the_program_is_refused(train):
    run = train("--model=LeNet", "--max-epoch=1")[3]
    code, _, err, _ = train(f"--resume={run}", "--model=resnet18", "--max-epoch=2")
    assert code == 2 and "trained with model LeNet, not resnet18" in err and err.count("\n") == 1


def test_what_cannot_be_resumed(train, tmp_path):
    for flag, said in (("--resume=nowhere", "no run folder nowhere"), (f"--resume={tmp_path}", "no config.yaml")):
        code, _, err, _ = train(flag)
        assert code == 2 and said in err and err.count("\n") == 1
    code, _, err, _ = train("--resume=last")
    assert code == 2 and "no run in" in err


def test_a_finished_run_says_so_and_can_be_prolonged(train, wholes):
    flags = ("--scheduler=plateau", "--lr=0.1")  # so high that the loss rises in the second epoch
    code, _, _, run = train(*flags)
    before = checkpoints.read(run / "last.pth")
    code, out, _, _ = train("--resume=last")
    assert code == 0 and "has done its 2 epochs" in out and "--max-epoch=4" in out
    code, _, err, _ = train("--resume=last", "--max-epoch=3")
    assert code == 0, err
    longer = whole_run(train, wholes, *flags, "--max-epoch=3")
    assert before["trainer"]["epoch"] == 2
    assert [event["lr"] for event in record(longer) if event["kind"] == "step"] == [0.1] * 6 + [0.05] * 3
    assert_same_end(run, longer)


DAMAGES = {
    "one byte": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "empty": lambda data: b"",
    "1%": lambda data: data[: len(data) // 100],
    "50%": lambda data: data[: len(data) // 2],
    "99.9%": lambda data: data[: int(len(data) * 0.999)],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, train, stop_at, wholes, monkeypatch):
    whole = whole_run(train, wholes)
    with monkeypatch.context():
        stop_at("second epoch")
        run = train("--save-every=1")[3]
    monkeypatch.undo()
    newest = run / "step_00000005.pth"
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))  # and so last.pth, which is the same file
    code, out, err, _ = train(f"--resume={run}", "--save-every=1000")
    assert code == 0, err
    assert f"warning: {newest} is " in out and f"resuming from {run / 'step_00000004.pth'}" in out
    assert_same_end(run, whole)


def test_with_no_good_checkpoint_left_one_line_says_so(train, stop_at, monkeypatch):
    with monkeypatch.context():
        stop_at("second epoch")
        run = train("--save-every=1")[3]
    monkeypatch.undo()
    for path in run.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    code, _, err, _ = train(f"--resume={run}")
    assert code == 1 and "can be read" in err and err.count("\n") == 1 and "--config=" in err


def test_killed_before_anything_was_saved_it_starts_again(train, stop_at, wholes, monkeypatch):
    whole = whole_run(train, wholes)
    with monkeypatch.context():
        stop_at("step 2")
        run = train()[3]
    monkeypatch.undo()
    for path in run.glob("*.pth"):
        path.unlink()
    (run / ".step_00000001.pth.x.part").touch()
    code, out, err, _ = train(f"--resume={run}")
    assert code == 0 and "from the start: nothing was saved" in out, err
    assert_same_end(run, whole)
    assert not list(run.glob(".*"))


def test_killed_between_the_names_of_the_best_it_is_named(train, stop_at, wholes, monkeypatch):
    whole = whole_run(train, wholes)
    with monkeypatch.context():
        stop_at("second epoch")
        run = train()[3]
    monkeypatch.undo()
    for name in ("best.pth", "last.pth", "step_00000004.pth", "step_00000005.pth"):
        (run / name).unlink(missing_ok=True)
    code, _, err, _ = train(f"--resume={run}")
    assert code == 0, err
    assert_same_end(run, whole)


def test_a_torn_record_is_mended(train, stop_at, wholes, monkeypatch):
    whole = whole_run(train, wholes)
    with monkeypatch.context():
        stop_at("second epoch")
        run = train()[3]
    monkeypatch.undo()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "epoch": 2, "step": 6, "lr": 0.1, "lo')
    assert train(f"--resume={run}")[0] == 0
    assert_same_end(run, whole)


def test_a_second_process_cannot_go_on_in_the_same_folder(train, stop_at, monkeypatch):
    with monkeypatch.context():
        stop_at("step 2")
        run = train()[3]
    monkeypatch.undo()
    with locked(run / "log.txt"):
        code, _, err, _ = train(f"--resume={run}")
    assert code == 2 and "another process is training" in err and err.count("\n") == 1
    assert train(f"--resume={run}")[0] == 0


def test_a_checkpoint_of_format_1_goes_on(train, stop_at, monkeypatch, command):
    """As version 1 of the format had it: between epochs, torch's schedulers, names hashed without sizes."""
    with monkeypatch.context():
        stop_at("validation")
        run = train("--scheduler=plateau", "--max-epoch=1")[3]
    monkeypatch.undo()
    assert train(f"--resume={run}")[0] == 0
    content = checkpoints.read(run / "last.pth")
    trainer = {k: v for k, v in content["trainer"].items() if k in ("epoch", "step", "best_epoch", "metrics")}
    metadata = {k: v for k, v in content["metadata"].items() if k not in ("machine", "task", "model_args")}
    old = {**metadata, "net": content["net"], **content["task"], **trainer}
    old["best_score"] = content["trainer"]["best_value"]
    old["images"] = {"train": 16, "val": 8, "names": "0123"}
    old["scheduler"] = {"previous_loss": content["task"]["scheduler"]["previous_loss"], "inner": None}
    old |= {"format": 1, "threads": 1, "rng": {"cpu": torch.get_rng_state(), "cuda": []}}
    for name in ("last.pth", "best.pth"):
        torch.save(old, run / name)
    assert command("val", f"--load-path={run}", NET)[::2] == (0, "")
    code, out, err, _ = train(f"--resume={run}", "--max-epoch=2")
    assert code == 0, err
    assert checkpoints.read(run / "last.pth")["format"] == checkpoints.FORMAT
    assert [event["step"] for event in record(run) if event["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_killed_before_the_last_names_it_finishes_before_it_says_that_it_is_done(train, wholes, monkeypatch, command):
    """The best epoch is the last one here, as it is of a loss that falls."""

    class KilledError(BaseException):
        pass

    link, calls = checkpoints.link, []

    def until_the_second_epoch(path, other):
        calls.append(path)
        if "step_00000006" in path.name:
            raise KilledError
        link(path, other)

    whole = whole_run(train, wholes, "--monitor=loss", "--lr=0.001")
    assert checkpoints.read(whole / "best.pth")["trainer"]["epoch"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "link", until_the_second_epoch)
        with pytest.raises(KilledError):
            train("--monitor=loss", "--lr=0.001")
    run = calls[-1].parent
    assert checkpoints.read(run / "last.pth")["trainer"]["epoch"] == 1
    code, out, err, _ = train(f"--resume={run}")
    assert code == 0 and "has done its 2 epochs" in out, err
    assert_same_end(run, whole)
    assert not list(run.glob("step_*")) and not list(run.glob(".*"))
    code, out, _ = command("val", f"--load-path={run}", "--model=small_net:SmallNet")
    assert code == 0 and "of epoch 2" in out
