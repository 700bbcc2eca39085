"""Several processes stop, skip, end and go on together, and with one voice."""

import os
import re
import signal
import subprocess
import threading
import time

import pytest
import torch
from conftest import ROOT, TINY, unless_given
from several import at_step, train
from started import started
from test_processes import apart, images, numbers, weights_apart  # noqa: F401

from engine import launch
from utils import checkpoints, world
from utils.errors import RunError, Stopped


def told(trained) -> str:
    """What all processes have said."""
    return "".join([*trained.out, *trained.err])


def log(trained) -> str:
    return (trained.run / "log.txt").read_text()


def kill(number: int):
    return lambda trainer: os.kill(os.getpid(), number)


def fail(error: BaseException):
    def action(trainer):
        raise error

    return action


# ---- a stop


def test_stopped_and_resumed_with_another_number_of_processes_it_ends_as_if_never_stopped(images, tmp_path):  # noqa: F811
    flags = [f"--train-data-root={images}", "--mixup=0.2", "--ema=0.9"]
    whole = train(tmp_path / "whole", 1, *flags)
    assert whole.codes == [0], str(whole)
    stopped = train(tmp_path / "runs", 2, *flags, before=at_step(3, 1, kill(signal.SIGTERM)))
    assert stopped.codes == [143, 143] and stopped.seconds < 5, str(stopped)
    assert told(stopped).count("stopped by SIGTERM at step 3") == 1 and not "".join(stopped.err), str(stopped)
    again = train(tmp_path / "runs", 1, f"--resume={stopped.run}", before=at_step(7, 0, kill(signal.SIGINT)))
    assert again.codes == [130], str(again)
    last = train(tmp_path / "runs", 3, f"--resume={stopped.run}")
    assert last.codes == [0, 0, 0], str(last)
    assert [line["step"] for line in numbers(last.run) if line["kind"] == "step"] == list(range(1, 13))
    assert apart(numbers(whole.run), numbers(last.run)) < 1e-9
    assert weights_apart(whole.run, last.run) < 1e-8
    assert "2" not in str(checkpoints.read(last.run / "last.pth")["trainer"].get("processes", ""))


def test_the_files_stop_and_save_count_for_all(images, tmp_path):  # noqa: F811
    def ask(trainer):
        trainer.stops.checked_at = 0.0
        (trainer.run.folder / "SAVE").touch()
        (trainer.run.folder / "STOP").touch()

    done = train(tmp_path, 2, f"--train-data-root={images}", before=at_step(3, 0, ask))
    assert done.codes == [0, 0] and done.seconds < 5, str(done)
    assert log(done).count("saved at step 3, as asked") == 1 and log(done).count("stopped by") == 1
    assert checkpoints.read(done.run / "step_00000003.pth")["trainer"]["step"] == 3


def test_processes_that_a_user_starts_by_processes(images, tmp_path):  # noqa: F811
    flags = [*unless_given(TINY, ("--model", "--max-epoch")), "--model=CifarNet", "--max-epoch=500", "--processes=2"]
    process = started("train", *flags, f"--train-data-root={images}", f"--checkpoint-dir={tmp_path}")
    end = time.monotonic() + 120
    while not list(tmp_path.glob("[!.]*/last.pth")) and time.monotonic() < end:
        time.sleep(0.05)
    found = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True).stdout
    (other,) = map(int, found.split())
    os.kill(other, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and not err, err
    assert out.count("stopped by SIGTERM") == 1 and "2 processes x 1 thread" in out, out
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)
    (run,) = tmp_path.iterdir()
    assert re.search(r"To resume: python main.py train --resume=\S+", out)
    assert checkpoints.read(run / "last.pth")["metadata"]["config"].get("processes") is None


# ---- what fails in one


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("planted"), "ValueError: planted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_fails_in_one_ends_all_and_is_told_once(error, said, rank, images, tmp_path):  # noqa: F811
    done = train(tmp_path, 2, f"--train-data-root={images}", before=at_step(3, rank, fail(error)))
    assert done.codes == [1, 1] and done.seconds < 6, str(done)
    assert told(done).count("Traceback") <= 1 and len(re.findall(f"^.*{said}", told(done), re.M)) <= 2, str(done)
    assert said in told(done)
    assert checkpoints.read(checkpoints.saved_in(done.run)[0])["trainer"]["step"] == 2


def test_a_process_that_is_killed_is_named_and_nothing_is_lost(images, tmp_path):  # noqa: F811
    done = train(tmp_path, 4, f"--train-data-root={images}", before=at_step(3, 1, kill(signal.SIGKILL)))
    assert done.codes == [1, -9, 1, 1] and done.seconds < 6, str(done)
    assert told(done).count("process 1 is gone without a word") == 1, str(done)
    assert checkpoints.read(checkpoints.saved_in(done.run)[0])["trainer"]["step"] == 2


@pytest.mark.parametrize("where", ["between two steps", "in the message of gradients"])
def test_a_process_that_hangs_is_given_up(where, images, tmp_path):  # noqa: F811
    def hang(trainer):
        if where == "between two steps":
            time.sleep(100)
        world.begin_to_add_up, world.finish = lambda tensor: None, lambda: time.sleep(100)

    flags = [f"--train-data-root={images}", "--data-timeout=2"]
    done = train(tmp_path, 2, *flags, before=at_step(3, 1, hang), wait=3)
    assert done.codes == [1, -9], str(done)
    assert told(done).count("no answer from process 1 for 2 s: it hangs, or the link is down") == 1, str(done)
    assert checkpoints.read(checkpoints.saved_in(done.run)[0])["trainer"]["step"] == 2


@pytest.mark.parametrize(
    ("end", "error", "said"),
    [("exit 3", RunError, "process 1 has ended .* exit code 3"), ("kill $$", Stopped, "stopped by SIGTERM")],
)
def test_a_process_that_ends_before_it_has_joined_is_not_waited_for(end, error, said):
    begin, done = time.monotonic(), threading.Event()
    child = subprocess.Popen(["sh", "-c", f"sleep 0.2; {end}"])
    with pytest.raises(error, match=said):
        launch._watched([child], lambda: done.wait(60) and None)
    assert time.monotonic() - begin < 5
    done.set()


def test_a_step_without_finite_numbers_in_one_is_left_out_in_all(images, tmp_path):  # noqa: F811
    def spoil(trainer):
        next(trainer.task.net.parameters()).grad = None
        normalize = trainer.task.preprocess.__class__.normalize

        def spoiled(self, some):
            trainer.task.preprocess.__class__.normalize = normalize
            return normalize(self, some) * float("nan")

        trainer.task.preprocess.__class__.normalize = spoiled

    flags = [f"--train-data-root={images}", "--on-nan=skip", "--max-epoch=1"]
    done = train(tmp_path, 2, *flags, before=at_step(3, 1, spoil))
    assert done.codes == [0, 0], str(done)
    assert log(done).count("skipped step 3") == 1
    skipped = [line.get("skipped") for line in numbers(done.run) if line["kind"] == "step"]
    assert skipped == [None, None, True, None]


def test_an_image_that_is_none_is_replaced_in_all(images, tmp_path):  # noqa: F811
    (tmp_path / "data").mkdir()
    for path in images.iterdir():
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    for name in ("cat.3.jpg", "dog.5.jpg"):
        (tmp_path / "data" / name).write_bytes(b"no image")
    flags = [f"--train-data-root={tmp_path}/data", "--on-bad-image=skip", "--max-epoch=1"]
    one, two = (train(tmp_path / str(n), n, *flags) for n in (1, 2))
    assert (one.codes, two.codes) == ([0], [0, 0]), (one, two)
    assert apart(numbers(one.run), numbers(two.run)) < 1e-9
    assert log(two).count("replaced by another of its class") == log(one).count("replaced by another of its class")


# ---- a launcher that starts the processes again


def test_a_launcher_that_starts_them_again_goes_on_with_the_run(images, tmp_path):  # noqa: F811
    flags, env = [f"--train-data-root={images}", "--save-every=2"], {"TORCHELASTIC_RUN_ID": "one"}
    whole = train(tmp_path / "whole", 1, *flags)
    killed = train(tmp_path / "runs", 2, *flags, env=env, before=at_step(6, 0, kill(signal.SIGKILL)))
    assert killed.codes == [-9, 1], str(killed)
    again = train(tmp_path / "runs", 2, *flags, env=env | {"TORCHELASTIC_RESTART_COUNT": "1"})
    assert again.codes == [0, 0], str(again)
    assert apart(numbers(whole.run), numbers(again.run)) < 1e-9
    assert "resuming from" in "".join(again.out)
    other = train(tmp_path / "runs", 2, *flags, "--max-epoch=1", env=env)
    assert other.codes == [0, 0] and len(list((tmp_path / "runs").iterdir())) == 2


def test_a_stop_that_was_asked_for_is_not_started_again(images, tmp_path):  # noqa: F811
    env = {"TORCHELASTIC_RUN_ID": "one"}
    done = train(tmp_path, 2, f"--train-data-root={images}", env=env, before=at_step(3, 1, kill(signal.SIGTERM)))
    assert done.codes == [0, 0] and "stopped by SIGTERM at step 3" in told(done), str(done)


def test_what_cannot_be_is_refused_before_torch_is_there(images, tmp_path, command):  # noqa: F811
    for words, said in (
        (["--processes=0"], "--processes takes int >= 1, not '0'"),
        (["--processes=x"], "--processes takes int >= 1, not 'x'"),
        (["--processes=2", "--dry-run"], "--dry-run measures one process"),
    ):
        code, _, err = command("train", f"--train-data-root={images}", f"--checkpoint-dir={tmp_path}", *words)
        assert code == 2 and said in err and err.count("\n") == 1, err
    assert ROOT.is_dir() and not list(tmp_path.iterdir())


def test_what_process_0_refuses_ends_all(images, tmp_path):  # noqa: F811
    done = train(tmp_path / "runs", 2, f"--train-data-root={images}", "--on-bad-image=skp")
    assert done.codes == [2, 2] and done.seconds < 6, str(done)
    assert "".join(done.err).count("--on-bad-image") == 1, str(done)
