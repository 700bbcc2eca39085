"""Faults put in on purpose: stops, bad images, workers, disks, numbers, memory. One line, and nothing is lost."""

import json
import multiprocessing
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import COUNT, ROOT, picture, unless_given
from started import started

from data import workers
from data.batch import Batch
from data.loaders import EpochBatchSampler, ImageDataset, Loader
from data.transforms import Preprocess
from engine import stop_control
from engine.tasks.classify import Classify
from utils import checkpoints, files

LONG = ["--model=shufflenet_v2_x0_5", "--image-size=32", "--batch-size=8", "--max-epoch=500", "--num-workers=0"]
LONG += ["--use-gpu=false", "--amp=off", "--vis-port=None"]


def events(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


class Process:
    """A training in a process and a group of its own."""

    def __init__(self, dogcat, folder, *flags, **options):
        words = [*unless_given(LONG, flags), *flags, f"--train-data-root={dogcat}/train", f"--checkpoint-dir={folder}"]
        self.popen = started("train", *words, start_new_session=True, **options)
        self.folder = folder

    def begun(self):
        self.run = wait_for(lambda: next((p for p in self.folder.glob("*/") if p.name[0] != "."), self.popen.poll()))
        assert isinstance(self.run, Path), self.popen.communicate()
        return self

    def steps(self):
        return (self.run / "metrics.jsonl").read_bytes().count(b'"kind": "step"')

    def after_steps(self, count=3):
        wait_for(lambda: self.steps() >= count)
        return self

    def children(self):
        done = subprocess.run(["ps", "--ppid", str(self.popen.pid), "-o", "pid="], capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]

    def end(self, timeout=60):
        out, err = self.popen.communicate(timeout=timeout)
        return self.popen.returncode, out, err


@pytest.fixture
def training(dogcat, tmp_path):
    started = []

    def start(*flags, **options):
        started.append(Process(dogcat, tmp_path, *flags, **options))
        return started[-1].begun()

    yield start
    for process in started:
        process.popen.kill()


@pytest.fixture
def train(command, dogcat, tmp_path):
    """Trains in this process: (exit code, stdout, stderr, run folder)."""

    def run(*flags, root=dogcat / "train"):
        words = unless_given(["--max-epoch=1", *unless_given(LONG, ("--max-epoch",))], flags)
        code, out, err = command(
            "train", *words, f"--train-data-root={root}", f"--checkpoint-dir={tmp_path}/runs", *flags
        )
        runs = list((tmp_path / "runs").glob("*"))
        return code, out, err, runs[0] if runs else None

    return run


def gone(pids):
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, code, workers", [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0), (signal.SIGTERM, 143, 2)]
)
def test_a_signal_stops_saves_and_leaves_no_process(number, code, workers, training):
    process = training(f"--num-workers={workers}").after_steps()
    children = process.children()
    start = time.monotonic()
    os.killpg(process.popen.pid, number)  # to all of them, as terminals and schedulers do
    got, out, err = process.end()
    assert time.monotonic() - start < 10
    assert got == code and "Traceback" not in err
    assert "step_" in out and ". To resume: python main.py train --resume=" in out
    assert gone(children) and len(children) >= workers
    step = checkpoints.read(process.run / "last.pth")["trainer"]["step"]
    assert step == events(process.run, "step")[-1]["step"] == process.steps()


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(training):
    process = training("--num-workers=2", "--data-timeout=60").after_steps()
    for child in process.children():
        os.kill(child, signal.SIGSTOP)  # the first one must not wait for these
    process.popen.send_signal(signal.SIGINT)
    process.popen.send_signal(signal.SIGINT)
    assert process.end(timeout=10)[0] == 130


SECOND_SIGNAL = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from engine.stop_control import StopControl

if __name__ == "__main__":
    with StopControl(Path(sys.argv[1]), print, print):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
        child.start()
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(100)
"""


@pytest.mark.slow
def test_a_second_signal_in_a_step_leaves_no_process(tmp_path):
    words = [sys.executable, "-c", SECOND_SIGNAL, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and "once more: at once" in done.stderr
    wait_for(lambda: gone([int(done.stdout)]), seconds=5)  # until init has taken note


@pytest.mark.slow
def test_a_hang_up_stops_it_unless_nohup(training):
    process = training().after_steps()
    process.popen.send_signal(signal.SIGHUP)
    assert process.end()[0] == 129 and (process.run / "last.pth").exists()


@pytest.mark.slow
def test_the_files_stop_and_save(training):
    process = training("--save-every=100000").after_steps()
    (process.run / "SAVE").touch()
    wait_for(lambda: not (process.run / "SAVE").exists())
    wait_for(lambda: "saved at step" in (process.run / "log.txt").read_text())
    assert process.popen.poll() is None
    (process.run / "STOP").touch()
    code, out, err = process.end()
    assert code == 0 and "stopped by" in out and "STOP" in out and err == ""
    assert not (process.run / "STOP").exists()
    assert checkpoints.read(process.run / "last.pth")["trainer"]["step"] == process.steps()


@pytest.mark.slow
def test_files_of_another_user_do_not_count(training):
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    process = training().after_steps()
    (process.run / "SAVE").touch()
    wait_for(lambda: not (process.run / "SAVE").exists())
    stop = process.run / ".." / "theirs"
    stop.touch()
    os.chown(stop, 12345, 12345)
    stop.rename(process.run / "STOP")
    wait_for(lambda: "belongs to another user: ignored" in (process.run / "log.txt").read_text())
    steps = process.steps()
    wait_for(lambda: process.steps() > steps + 5)
    assert (process.run / "STOP").exists()


@pytest.mark.slow
def test_the_debug_file_opens_a_debugger_on_a_terminal(training, tmp_path):
    debug = tmp_path / "debug"
    master, slave = pty.openpty()

    def take_terminal():
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = training(
        "--print-freq=1", f"--debug-file={debug}", stdin=slave, stdout=slave, stderr=slave, before=take_terminal
    ).after_steps()
    seen = b""

    def shown(words):
        nonlocal seen
        end = time.monotonic() + 30
        while words not in seen and time.monotonic() < end:
            if select.select([master], [], [], 1)[0]:
                seen += os.read(master, 10000)
        assert words in seen, seen
        seen = seen.partition(words)[2]

    debug.touch()
    shown(b"(Pdb)")
    os.write(master, b"print('N', len(batch), type(model).__name__, loss.shape, opt.lr)\n")
    shown(b"N 8 ShuffleNetV2 torch.Size([]) 0.001")
    os.write(master, b"opt.lr = 0.5\nc\n")  # as the book changes it
    shown(b"(Pdb)")
    os.write(master, b"for group in optimizer.param_groups: group['lr'] = 0.25\n")
    debug.unlink()
    steps = process.steps()
    os.write(master, b"c\n")
    wait_for(lambda: process.steps() > steps + 3)
    rates = [event["lr"] for event in events(process.run, "step")]
    assert [rate for rate, before in zip(rates, [None, *rates], strict=False) if rate != before] == [0.001, 0.5, 0.25]
    debug.touch()
    shown(b"(Pdb)")
    os.write(master, b"q\n")
    shown(b"stopped by the debugger at step")
    assert process.popen.wait(30) == 130 and b"Traceback" not in seen
    checkpoint = checkpoints.read(process.run / "last.pth")
    assert checkpoint["trainer"]["step"] == process.steps()


@pytest.mark.slow
def test_without_a_terminal_the_debug_file_is_ignored_in_one_line(training, tmp_path):
    (tmp_path / "debug").touch()
    process = training("--print-freq=1", f"--debug-file={tmp_path / 'debug'}").after_steps(6)
    process.popen.send_signal(signal.SIGTERM)
    code, out, _ = process.end()
    assert code == 143 and out.count("no terminal for a debugger: ignored") == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_worker_that_dies_or_hangs(fault, training):
    process = training("--num-workers=2", "--data-timeout=2").after_steps()
    victim = process.children()[-1]
    os.kill(victim, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    code, out, err = process.end()
    assert code == 1 and err.count("\n") == 1
    assert ("a worker process that reads images is lost" if fault == "killed" else "no batch came for 2 s") in err
    assert "--num-workers=1" in err or "--data-timeout=4" in err
    assert "saved as" in out and checkpoints.read(process.run / "last.pth")["trainer"]["step"] == process.steps()


@pytest.fixture
def loader(dogcat):
    """A loader whose two worker processes have read a batch."""
    items = [(path, 0) for path in sorted((dogcat / "train").iterdir())]
    with Loader(items, Preprocess(16), EpochBatchSampler(len(items), 2, seed=0), num_workers=2) as loader:
        next(iter(loader))
        yield loader


def test_a_stop_just_where_the_watch_over_the_workers_ends(loader):
    signal.signal(signal.SIGCHLD, workers._torch_handlers[0])  # what such a stop leaves behind
    pids = [process.pid for process in loader.processes]
    loader.close()
    assert len(pids) == 2 and gone(pids)


@pytest.mark.slow
def test_a_worker_killed_while_it_held_a_lock(loader):
    event = loader._iterator._workers_done_event
    holder = multiprocessing.get_context("fork").Process(target=event._cond.acquire)
    holder.start()
    holder.join()
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("unable to write to file </torch_1>: No space left on device (28)", "/dev/shm"),
        ("unable to resize file </torch_1> to the right size: File too large (27)", "ulimit -f"),
    ],
)
def test_no_shared_memory_left(error, cause, train, monkeypatch):
    def full(self):
        raise RuntimeError(error)

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    code, out, err, run = train("--num-workers=1")
    assert code == 1 and cause in err and "--num-workers=0" in err and err.count("\n") == 1
    assert checkpoints.read(run / "last.pth")["trainer"]["step"] == 0


@pytest.fixture
def bad_images(tmp_path):
    """12 cats and 12 dogs, of which cat.3 is text and dog.5 is cut off."""
    root = tmp_path / "bad"
    root.mkdir()
    for i in range(COUNT):
        picture(root / f"cat.{i}.jpg", (200, 9 * i, 30), (60, 50))
        picture(root / f"dog.{i}.jpg", (30, 9 * i, 200), (60, 50))
    (root / "cat.3.jpg").write_text("<html>404</html>")
    cut = (root / "dog.5.jpg").read_bytes()
    (root / "dog.5.jpg").write_bytes(cut[: len(cut) // 2])
    return root


def test_a_bad_image_ends_the_run_in_one_line_and_it_is_saved(train, bad_images):
    code, out, err, run = train("--cache=off", root=bad_images)
    assert code == 2 and err.count("\n") == 1 and ("cat.3.jpg" in err or "dog.5.jpg" in err)
    assert "saved as" in out and (run / "last.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_counted_and_listed(workers, train, bad_images, command):
    code, out, err, run = train("--on-bad-image=skip", f"--num-workers={workers}", root=bad_images)
    assert code == 0, err
    line = next(line for line in out.splitlines() if "replaced by another" in line)
    assert line.startswith("2 images") and "cat.3.jpg" in line and "dog.5.jpg" in line
    (epoch,) = events(run, "epoch")
    assert len(epoch["bad_images"]) == 2 and sum(map(sum, epoch["val_confusion"])) == 8
    code, out, _ = command("val", f"--load-path={run}")
    assert code == 0 and f"{epoch['val_loss']:.6f}" in out


def test_the_replacement_is_of_the_same_class_and_the_same_each_time(bad_images):
    items = [(path, int(path.name[0] == "d")) for path in sorted(bad_images.iterdir())]
    bad = [path.name for path, _ in items].index("cat.3.jpg")
    images = ImageDataset(items, Preprocess(16, 0.5), seed=1, crop=True, on_bad="skip")
    first, again, other = images[0, bad, bad], images[0, bad, bad], images[1, bad, bad]
    assert first[1] == 0 and items[first[2][1]][1] == 0 and first[2][1] != bad
    assert (first[0] == again[0]).all() and "cat.3.jpg" in first[3][0]
    assert other[2] != first[2] or (other[0] != first[0]).any()
    only_bad = ImageDataset([(bad_images / "cat.3.jpg", 0)], Preprocess(16), seed=1, crop=False, on_bad="skip")
    assert "cannot be read" in str(only_bad[0, 0, 0])


def poison(monkeypatch, steps, what="loss"):
    """Makes the numbers of some steps infinite or NaN."""
    from torch.nn import functional as F

    original, calls = F.cross_entropy, []

    def cross_entropy(logits, labels, **options):
        loss = original(logits, labels, **options)
        if logits.requires_grad:
            calls.append(1)
            if len(calls) in steps:
                return loss * float("nan") if what == "loss" else loss + (logits * 0).sqrt().sum()
        return loss

    monkeypatch.setattr(F, "cross_entropy", cross_entropy)


@pytest.mark.slow
@pytest.mark.parametrize("what, named", [("loss", "the loss (nan)"), ("gradient", "the gradient of ")])
def test_numbers_that_are_not_finite_are_caught_before_the_optimizer(what, named, train, monkeypatch):
    poison(monkeypatch, [3], what)
    code, out, err, run = train("--save-every=1", "--max-epoch=2", "--lr=0.0123")
    assert code == 1 and err.count("\n") == 1
    for words in ("step 3 (epoch 2, lr 0.0123)", named, ".jpg, ", "--on-nan=skip"):
        assert words in err
    assert f"the last good checkpoint is {run / 'step_00000002.pth'}" in out
    assert all(v.isfinite().all() for v in checkpoints.read(run / "last.pth")["net"].values())


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped(train, monkeypatch):
    changes, original = [], Classify.train_step

    def noted(self, batch):
        before = {k: v.clone() for k, v in self.net.state_dict().items()}
        try:
            return original(self, batch)
        finally:
            changes.append(any(not torch.equal(v, before[k]) for k, v in self.net.state_dict().items()))

    monkeypatch.setattr(Classify, "train_step", noted)
    poison(monkeypatch, [2])
    code, out, err, run = train("--max-epoch=2", "--on-nan=skip")
    assert code == 0, err
    assert changes == [True, False, True, True]
    assert [event.get("skipped", False) for event in events(run, "step")] == [False, True, False, False]
    assert "skipped step 2 (epoch 1" in out and "1 step left out: 2" in out


@pytest.mark.slow
def test_where_all_steps_are_skipped_it_ends(train, monkeypatch):
    poison(monkeypatch, range(1000))
    code, _, err, _ = train("--max-epoch=2", "--on-nan=skip")
    assert code == 1 and "no step of epoch 1 had finite numbers" in err and err.count("\n") == 1
    code, _, err, _ = train("--max-epoch=2", "--on-nan=skip", "--batch-size=1")
    assert code == 2  # BatchNorm
    code, _, err, _ = train(
        "--max-epoch=99", "--on-nan=skip", "--model=squeezenet1_1", "--image-size=32", "--batch-size=2"
    )
    assert code == 1 and ("20 steps in a row" in err or "no step of epoch" in err)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["train_step", "evaluate"])
def test_out_of_memory(where, train, monkeypatch):
    monkeypatch.setattr(Classify, where, lambda *_: torch.empty(2**60))
    code, out, err, run = train()
    assert code == 1 and err.count("\n") == 1
    assert "batch size 8 and image size 32" in err and "--batch-size=4" in err
    assert ("nothing was saved" in out) if where == "train_step" else (run / "last.pth").exists()


@pytest.mark.slow
def test_a_full_disk(train, monkeypatch, command):
    """With the limit on the size of a file that `ulimit -f` sets, in place of a full disk."""
    import resource

    written, original = [], files.atomic_write

    def limited(path, mode="w"):
        if str(path).endswith(".pth"):
            written.append(path)
            limit = 10**6 if len(written) == 2 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return original(path, mode)

    monkeypatch.setattr(files, "atomic_write", limited)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        code, out, err, run = train("--save-every=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and err.count("\n") == 1 and "step_00000002.pth cannot be written: File too large" in err
    assert not list(run.glob("*.part")) and not list(run.glob(".*"))
    monkeypatch.setattr(files, "atomic_write", original)
    code, _, err = command("train", f"--resume={run}")
    assert code == 0, err
    assert [event["step"] for event in events(run, "step")] == [1, 2]


def test_a_full_disk_while_logging_leaves_no_torn_line(tmp_path):
    import resource

    from runs.record import Record
    from utils.errors import RunError

    sink = Record(tmp_path / "metrics.jsonl")
    sink.log_event({"kind": "step", "step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        for _ in range(2):
            with pytest.raises(RunError, match="metrics.jsonl cannot be written: File too large"):
                sink.log_event({"kind": "step", "step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sink.log_event({"kind": "step", "step": 2})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


@pytest.mark.slow
def test_a_net_that_does_not_learn(train):
    code, out, _, _ = train("--lr=1e-12", "--max-epoch=3")
    assert code == 0 and out.count("the net does not learn yet") == 1 and "learning rate" in out


def test_a_bug_keeps_its_traceback_and_the_training_is_saved(train, monkeypatch):
    def broken(self):
        raise ZeroDivisionError("a bug in a picture")

    monkeypatch.setattr(Classify, "samples", broken)
    with pytest.raises(ZeroDivisionError):
        train()


@pytest.mark.slow
def test_a_saved_state_after_a_bug_goes_on(train, monkeypatch, command, tmp_path):
    with monkeypatch.context() as m:
        m.setattr(Classify, "samples", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train("--max-epoch=2")
    (run,) = (tmp_path / "runs").glob("*")
    assert checkpoints.read(run / "best.pth")["trainer"]["epoch"] == 1
    assert command("train", f"--resume={run}")[0] == 0
    assert [event["epoch"] for event in events(run, "epoch")] == [1, 2]


def test_stops_off_the_main_thread_change_no_handlers(tmp_path):
    import threading

    before = signal.getsignal(signal.SIGINT)
    batches, seen = [Batch(*[torch.zeros(1)] * 3) for _ in range(2)], []

    def work():
        with stop_control.StopControl(tmp_path, print, lambda: None) as s:
            seen.extend(s.interruptible(batches))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == batches and signal.getsignal(signal.SIGINT) is before
