"""Faults at random moments of a real training, many times: prints a table of fault, times tried, times survived.

    python tests/torture.py [--data=DIR] [--times=100] [--epochs=2] [--seed=0] [--only=WORDS]

Survived means: what the fault left can be resumed, nothing older than one save was lost, and the final weights,
optimizer state, record and best are bit for bit those of a training that nobody disturbed.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data import open as open_dataset  # noqa: E402
from tests.compare import record, same, trained  # noqa: E402
from utils import checkpoints  # noqa: E402
from utils.errors import UsageError  # noqa: E402

DEMO = "data/demo/train"
FLAGS = ["--model=shufflenet_v2_x0_5", "--image-size=64", "--scheduler=cosine", "--vis-port=None", "--num-workers=2"]


class Torture:
    launcher: list[str] = []  # words before main.py
    own_flags = FLAGS
    kind = ""  # of training, in the table
    share = 10  # a row that takes long is tried times / share

    def __init__(self, data: str, times: int, epochs: int, seed: int, folder: Path) -> None:
        self.data, self.times, self.epochs, self.folder, self.random = data, times, epochs, folder, random.Random(seed)
        self.rows: list[tuple[str, int, int, str]] = []
        self.whole = self.train(self.folder / "whole", "--save-every=1")
        assert self.whole.returncode == 0, self.whole.err
        self.whole_run = run_in(self.folder / "whole")

    def start(self, runs: Path, *flags: str, **options) -> subprocess.Popen:
        """A training in `runs`, which goes on with the one there where there is one."""
        words = [sys.executable, *self.launcher, str(ROOT / "main.py"), "train", f"--checkpoint-dir={runs}"]
        old = run_in(runs)
        new = [*self.own_flags, f"--max-epoch={self.epochs}", f"--train-data-root={self.data}"]
        words += [f"--resume={old}"] if old else new
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        return subprocess.Popen([*words, *flags], cwd=ROOT, **pipes | options)

    def train(self, runs: Path, *flags: str) -> subprocess.Popen:
        process = self.start(runs, *flags)
        process.out, process.err = process.communicate()
        return process

    def goes_on(self, runs: Path) -> bool:
        """Whether the training in `runs` can be brought to the end of the undisturbed one."""
        done = self.train(runs, "--save-every=1", "--data-timeout=300")
        if done.returncode:
            print(done.out[-500:], done.err, file=sys.stderr)
        return not done.returncode and self.is_whole(runs)

    def is_whole(self, runs: Path) -> bool:
        """Whether the only run in `runs` is the undisturbed one, bit for bit."""
        run = run_in(runs)
        if record(run) != record(self.whole_run):
            return self.holds(False, f"{run}: another record")
        pairs = [[checkpoints.read(r / n) for r in (run, self.whole_run)] for n in ("last.pth", "best.pth")]
        return all(same(trained(a), trained(b)) for a, b in pairs)

    @staticmethod
    def holds(so: bool, what: str) -> bool:
        """Tells what happened where something is not `so`."""
        if not so:
            print(what, file=sys.stderr, flush=True)
        return so

    def row(self, fault: str, tried: int, survived: int, note: str = "") -> None:
        self.rows.append((fault, tried, survived, note))
        print(f"{fault:<46} {tried:>5} {survived:>9}   {note}", flush=True)

    def killed(self) -> None:
        """SIGKILL again and again to one run that saves after every step."""
        runs, resumed, lost, ends = self.folder / "killed", 0, [], []
        for _ in range(self.times):
            before = saved_step(run_in(runs))
            process = self.start(runs, "--save-every=1")
            time.sleep(self.random.uniform(0, 2) if self.random.random() < 0.2 else self.random.uniform(3, 6))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
            recorded, now = last_recorded(run_in(runs)), saved_step(run_in(runs))
            lost.append(max(recorded, before) - now)
            resumed += process.returncode in (0, -signal.SIGKILL) and lost[-1] <= 1
            if process.returncode == 0:
                ends.append(self.goes_on(runs))
                shutil.rmtree(runs)
        ends.append(self.goes_on(runs))
        note = f"most steps lost: {max(lost)}; bit for bit at the end of {sum(ends)} of {len(ends)} runs"
        self.row("SIGKILL at a random moment", self.times, resumed if all(ends) else 0, note)

    def stopped(self, name: str) -> None:
        """A stop at a random moment of a training with two workers."""
        tried, good, seconds = max(self.times // 10, 1), 0, []
        number = getattr(signal, name, None)
        for i in range(tried):
            runs = self.folder / f"{name}{i}"
            process = self.start(runs)
            wait_for_steps(runs, 1)
            time.sleep(self.random.uniform(0, 3))
            children, start = children_of(process.pid), time.monotonic()
            if number:
                os.killpg(process.pid, number)
            else:
                (run_in(runs) / "STOP").touch()
            code = process.wait(60)
            seconds.append(time.monotonic() - start)
            left = [pid for pid in children if os.path.exists(f"/proc/{pid}")]
            told = code == (128 + number if number else 0) and not left
            good += self.holds(told, f"exit code {code}, left {left}") and self.goes_on(runs)
        self.row(f"{name} at a random moment", tried, good, f"slowest exit {max(seconds):.1f} s")

    def workers(self, number: signal.Signals) -> None:
        tried, good, seconds = max(self.times // 10, 1), 0, []
        for i in range(tried):
            runs = self.folder / f"worker{number}{i}"
            process = self.start(runs, "--data-timeout=5")
            wait_for_steps(runs, 1)
            time.sleep(self.random.uniform(0, 2))
            start = time.monotonic()
            if not (children := children_of(process.pid)):  # it had ended before
                process.communicate()
                tried -= 1
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(children), number)
            _, err = process.communicate(timeout=100)
            seconds.append(time.monotonic() - start)
            told = process.returncode == 1 and err.count("\n") == 1
            good += self.holds(told, f"exit code {process.returncode}: {err}") and self.goes_on(runs)
        self.row(
            f"a worker gets {number.name}",
            tried,
            good,
            f"slowest end {max(seconds, default=0):.1f} s (--data-timeout=5)",
        )

    def damaged(self) -> None:
        """The newest checkpoint with one byte flipped, or cut: named, and the one before taken."""
        source = self.folder / "two"
        shutil.rmtree(source, ignore_errors=True)
        process = self.start(source, "--save-every=5")
        wait_for_steps(source, 12)
        process.send_signal(signal.SIGTERM)
        process.wait()
        newest = checkpoints.saved_in(run_in(source))[0]
        data = newest.read_bytes()
        flips = {f"{i}": flipped(data, self.random.randrange(len(data))) for i in range(10 * self.times)}
        named = 0
        for content in flips.values():
            newest.write_bytes(content)
            try:
                checkpoints.read(newest)
            except UsageError as e:
                named += str(newest) in str(e)
        self.row("one byte flipped, at a random place: named", len(flips), named)
        cuts = {f"{part:.1%}": data[: int(len(data) * part)] for part in (0, 0.01, 0.5, 0.999)}
        good = 0
        for content in [*cuts.values(), flipped(data, len(data) // 2)]:
            runs = self.folder / "damaged"
            shutil.rmtree(runs, ignore_errors=True)
            newest.write_bytes(content)
            shutil.copytree(source, runs)
            good += self.goes_on(runs)
        self.row("newest checkpoint cut (0, 1, 50, 99.9%), flipped", 5, good, "the one before is used")

    def full_disk(self) -> None:
        """A small tmpfs as the disk, of random size; then more room, and on."""
        if os.getuid():
            self.row("disk full (tmpfs)", 0, 0, "needs root")
            return
        tried, good = max(self.times // self.share, 1), 0
        for i in range(tried):
            runs = self.folder / f"disk{i}"
            runs.mkdir()
            size = self.random.randint(4500, 13000)
            with mounted(runs, f"size={size}k"):
                done = self.train(runs, "--save-every=7", "--keep=5")
                told = done.returncode == 1 and "No space left" in done.err and done.err.count("\n") == 1
                subprocess.run(["mount", "-o", "remount,size=1g", str(runs)], check=True)
                good += self.holds(told, done.err) and self.goes_on(runs)
        self.row(f"{self.kind}disk full, then freed", tried, good)

    def file_limit(self) -> None:
        tried, good = max(self.times // 10, 1), 0
        for i in range(tried):
            runs = self.folder / f"limit{i}"
            limit = self.random.choice([2, 5, 20, 4000])  # KiB: the record, the log, a checkpoint
            words = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", sys.executable, str(ROOT / "main.py")]
            words += ["train", *FLAGS, f"--max-epoch={self.epochs}", f"--train-data-root={self.data}"]
            done = subprocess.run([*words, f"--checkpoint-dir={runs}"], capture_output=True, text=True, cwd=ROOT)
            told = done.returncode == 1 and "File too large" in done.stderr and done.stderr.count("\n") == 1
            good += self.holds(told, done.stderr) and self.goes_on(runs)
        self.row("ulimit -f, then without", tried, good)

    def shared_memory(self) -> None:
        if os.getuid():
            self.row("/dev/shm full", 0, 0, "needs root")
            return
        runs = self.folder / "shm"
        script = 'mount -t tmpfs -o size=200k tmpfs /dev/shm; exec "$@"'
        words = ["unshare", "-m", "bash", "-c", script, "bash", sys.executable, str(ROOT / "main.py"), "train", *FLAGS]
        words += [f"--max-epoch={self.epochs}", f"--train-data-root={self.data}", f"--checkpoint-dir={runs}"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
        told = done.returncode == 1 and "/dev/shm" in done.stderr and done.stderr.count("\n") == 1
        self.row("/dev/shm full", 1, int(self.holds(told, done.stderr) and self.goes_on(runs)))


def run_in(runs: Path) -> Path | None:
    return next((path for path in sorted(runs.glob("*/")) if path.name[0] != "."), None)


def saved_step(run: Path | None) -> int:
    """The step of the newest checkpoint."""
    paths = checkpoints.saved_in(run) if run else []
    return checkpoints.read(paths[0])["trainer"]["step"] if paths else 0


def last_recorded(run: Path | None) -> int:
    lines = (run / "metrics.jsonl").read_text().splitlines() if run else []
    steps = [0]
    for line in lines:
        with contextlib.suppress(ValueError):
            steps.append(json.loads(line).get("step", 0))
    return max(steps)


def wait_for_steps(runs: Path, count: int) -> None:
    end = time.monotonic() + 100
    while last_recorded(run_in(runs)) < count and time.monotonic() < end:
        time.sleep(0.05)


def descendants_of(pid: int) -> list[int]:
    return [pid for child in children_of(pid) for pid in (child, *descendants_of(child))]


def children_of(pid: int) -> list[int]:
    done = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def main(data: str = DEMO, times: int = 100, epochs: int = 2, seed: int = 0, only: str = "") -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    with tempfile.TemporaryDirectory(prefix="torture") as folder:
        if data == DEMO and not Path(DEMO).exists():
            open_dataset("Demo")  # draws it
        torture = Torture(data, times, epochs, seed, Path(folder))
        faults: dict[str, Callable[[], None]] = {
            "damaged": torture.damaged,
            "SIGINT": lambda: torture.stopped("SIGINT"),
            "SIGTERM": lambda: torture.stopped("SIGTERM"),
            "STOP file": lambda: torture.stopped("STOP file"),
            "worker killed": lambda: torture.workers(signal.SIGKILL),
            "worker frozen": lambda: torture.workers(signal.SIGSTOP),
            "full disk": torture.full_disk,
            "file limit": torture.file_limit,
            "shared memory": torture.shared_memory,
            "SIGKILL": torture.killed,
        }
        print(f"{'fault':<46} {'tried':>5} {'survived':>9}", flush=True)
        for name, fault in faults.items():
            if only in name:
                fault()
        if any(tried != survived for _, tried, survived, _ in torture.rows):
            sys.exit(1)


if __name__ == "__main__":
    fire.Fire(main)
