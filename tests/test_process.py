"""The process: output that is closed or full, a Ctrl-C at any moment, files that cannot be written, other packages."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, picture
from started import started

from cli import process
from data.batch import Batch
from engine import stop_control
from runs.run import Run
from utils import checkpoints, files
from utils.errors import RunError, Stopped

pytestmark = pytest.mark.slow

MAIN = [sys.executable, str(ROOT / "main.py")]


def shell(line: str, folder: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=100, **options)


@pytest.fixture(scope="module")
def small(dogcat) -> list[str]:
    """The words of a training."""
    return ["train", *TINY, f"--train-data-root={dogcat}/train", "--checkpoint-dir=runs"]


# ---- output


@pytest.mark.parametrize("where", ["2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_training_whose_output_goes_nowhere(where, small, tmp_path):
    done = shell(f"{' '.join([*MAIN, *small])} {where}", tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert checkpoints.read(run / "last.pth")["trainer"]["epoch"] == 1
    assert "best: epoch 1" in (run / "log.txt").read_text()
    assert not any(
        b"epoch 1/1" in path.read_bytes() for path in run.iterdir() if path.suffix in (".pth", ".jsonl", ".yaml")
    )


@pytest.mark.parametrize("where", [">&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "| true"])
@pytest.mark.parametrize("words", ["help", "train --nonsense=1"])
def test_pages_and_refusals_whose_output_goes_nowhere(words, where, tmp_path):
    done = shell(f"{' '.join(MAIN)} {words} {where}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode in (0, 1, 2, 141) and "Traceback" not in done.stderr
    assert done.returncode == 2 or words == "help"


@pytest.mark.parametrize("target", ["/dev/full", "/dev/stdout", "pipe", "closed pipe"])
def test_a_csv_into_a_device_or_a_pipe(target, tiny_run, tmp_path):
    picture(tmp_path / "1.png")
    reader = None
    if "pipe" in target:
        os.mkfifo(tmp_path / "fifo")
        reader = subprocess.Popen(
            ["head", "-c", "5" if target == "closed pipe" else "1000"], stdin=os.open(tmp_path / "fifo", os.O_RDWR)
        )
        target = str(tmp_path / "fifo")
    words = [f"--load-path={tiny_run}", f"--test-data-root={tmp_path}/1.png", f"--result-file={target}"]
    process = started("test", *words)
    _, err = process.communicate(timeout=60)
    if reader:
        reader.kill()
        reader.wait()
    assert "Traceback" not in err and err.count("\n") <= 1
    assert process.returncode == (1 if target == "/dev/full" else 0), err
    if target == "/dev/full":
        assert "/dev/full cannot be written: No space left on device" in err


def test_a_ctrl_c_at_a_random_moment_of_the_start_leaves_no_traceback(small, tmp_path):
    for _ in range(3):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([*MAIN, *small], cwd=tmp_path, **pipes)
        while process.poll() is None and "_ctypes" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)  # before, it is Python's own start
        time.sleep(random.random() * 2.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT, 0), err
        assert "Traceback" not in err, err


HALF = """
import signal
try:
    signal.raise_signal(signal.{})
except BaseException:
    raise RecursionError("half a module")
"""


def test_a_ctrl_c_in_an_import_ends_the_process_whatever_the_import_makes_of_it(tmp_path):
    (tmp_path / "net.py").write_text(HALF.format("SIGINT") + "class Net: pass\n")
    done = subprocess.run([*MAIN, "summary", "--model=net.py:Net"], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("name", stop_control.CODES)
def test_a_stop_in_an_import_waits_for_the_batch(name, tmp_path, monkeypatch):
    (tmp_path / "half_a_module.py").write_text(HALF.format(name))
    monkeypatch.syspath_prepend(tmp_path)
    batch = Batch(*[torch.zeros(1)] * 3)

    def batches():
        import half_a_module  # noqa: F401

        yield batch

    with stop_control.StopControl(tmp_path, print, print) as stops:
        work = stops.interruptible(batches())
        assert next(work) is batch
        with pytest.raises(Stopped):
            next(work)
    del sys.modules["half_a_module"]


# ---- what cannot be written

ERRORS = [
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EMFILE,
    errno.EACCES,
    errno.ENOENT,
    errno.EPERM,
    errno.ESTALE,
]


def steps_of_a_save(run: Run, tmp_path: Path) -> dict:
    """{name: (module, function, what is done)}: calls of the system in a run's life that may fail."""
    checkpoint = {"metadata": {}, "net": {"w": torch.zeros(2)}}

    def save() -> None:
        run.save(checkpoint, 2, 1, better=True)

    return {
        "fsync": (os, "fsync", save),
        "rename": (os, "replace", save),
        "chmod": (os, "chmod", save),
        "removing": (Path, "unlink", save),
        "mkdir": (Path, "mkdir", lambda: Run.create(run.opt)),
    }


@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("what", ["fsync", "rename", "chmod", "removing", "mkdir"])
def test_every_error_of_the_system_is_one_line(what, number, tmp_path, monkeypatch):
    from config import Config

    opt = Config(checkpoint_dir=tmp_path / "runs", vis_port=None, dataset="DogCat")
    run = Run.create(opt)
    run.opt = opt
    run.folder.joinpath("step_00000001.pth").touch()
    run.folder.joinpath("step_00000000.pth").touch()
    owner, name, action = steps_of_a_save(run, tmp_path)[what]

    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(RunError, match=os.strerror(number)) as caught:
        action()
    monkeypatch.undo()
    run.close()
    assert "cannot be written" in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.slow
def test_a_run_folder_that_is_moved_away_while_training(small, command, tmp_path):
    process = started(*(word.replace("max-epoch=1", "max-epoch=500") for word in small), cwd=tmp_path)
    end = time.monotonic() + 60
    while not list((tmp_path / "runs").glob("[!.]*/last.pth")) and time.monotonic() < end:
        time.sleep(0.05)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert "was its folder moved or removed?" in err and err.count("\n") == 1
    (run,) = (tmp_path / "elsewhere").iterdir()
    assert command("val", f"--load-path={run}")[0] == 0


def test_without_hard_links_the_copy_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "step.pth").write_bytes(b"new")
    (tmp_path / "last.pth").write_bytes(b"old")
    calls = []

    def no_links(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    checkpoints.link(tmp_path / "step.pth", tmp_path / "last.pth")
    assert calls[:2] == ["fsync", "replace"] and (tmp_path / "last.pth").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth", "step.pth"]


def test_an_unwritable_place_says_how_much_is_free(tmp_path):
    said = r"No space left on device \([\d.]+ MiB free there\)"
    with pytest.raises(RunError, match=said), files.disk_errors_as_failure(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- other people's code


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the program."""
    folder = tmp_path_factory.mktemp("copy") / "runner"
    folder.mkdir()
    for name in ("main.py", "config.py", "configs", *sorted(set(process.PACKAGES) - {"config"})):
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "cache", "train", "test1")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.mark.slow
def test_files_that_are_no_python_stop_only_those_who_need_them(copy, dogcat, tmp_path):
    broken = ["models/broken.py", "data/broken.py", "engine/tasks/broken.py", "runs/sinks/broken.py"]
    for file in broken:
        (copy / file).write_text("class Broken(:\n")
    done = shell(f"{sys.executable} main.py help", copy)
    assert done.returncode == 0 and all(f"{file}, line 1" in done.stdout for file in broken[:2]), done.stderr
    words = " ".join([*TINY, f"--train-data-root={dogcat}/train", f"--checkpoint-dir={tmp_path}"])
    done = shell(f"{sys.executable} main.py train {words}", copy)
    assert done.returncode == 0, done.stderr
    for option, file in (("model", broken[0]), ("dataset", broken[1])):
        done = shell(f"{sys.executable} main.py train --{option}=Broken", copy)
        assert done.returncode == 2 and f"{file}, line 1" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["utils", "data", "models", "config", "engine", "runs"])
def test_beside_a_file_of_the_users_of_the_same_name(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("mine = 1\n")
    (tmp_path / "notebook.py").write_text(
        f"import sys\nsys.path.append({str(ROOT)!r})\nimport main\nmain.help('lr')\nprint(main.help)\n"
    )
    done = shell(f"{sys.executable} notebook.py", tmp_path)
    assert done.returncode == 0 and "--lr: learning rate" in done.stdout, done.stderr
    (tmp_path / "notebook.py").write_text(f"import sys\nsys.path.append({str(ROOT)!r})\nimport {name}\nimport main\n")
    done = shell(f"{sys.executable} notebook.py", tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and f"was imported as '{name}'" in last and "import main first" in last


def test_check_in_a_notebook_returns_what_it_found(dogcat, tmp_path):
    import main

    assert main.check(train_data_root=f"{dogcat}/train", image_size=32, checkpoint_dir=tmp_path) == []
