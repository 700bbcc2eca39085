"""Faults at random moments of trainings in two processes: prints a table of fault, times tried, times survived.

    python tests/torture_processes.py [--data=DIR] [--times=20] [--epochs=2] [--seed=0] [--only=WORDS]

Survived means what tests/torture.py says, the undisturbed training being one in two processes; further, that no process
is left, and that a stop, a full disk and a process that hangs are told.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data import open as open_dataset  # noqa: E402
from tests import torture  # noqa: E402
from tests.torture import descendants_of, last_recorded, run_in, saved_step, wait_for_steps  # noqa: E402

FLAGS = [flag for flag in torture.FLAGS if not flag.startswith("--num-workers")]
LIMIT = 6  # seconds of --data-timeout where a process hangs


class ByProcesses(torture.Torture):
    """Started by `--processes=2`: the process that the user started is process 0."""

    kind, share = "--processes=2: ", 2
    own_flags = [*FLAGS, "--num-workers=1", "--processes=2"]

    def start(self, runs: Path, *flags: str, **options) -> subprocess.Popen:
        return super().start(runs, *flags, *(["--processes=2"] if run_in(runs) else []), **options)

    def trainers(self, launcher: subprocess.Popen) -> list[int]:
        """The processes that train, in the order of their ranks."""
        found = [pid for pid in descendants_of(launcher.pid) if is_trainer(pid)]
        return [launcher.pid, *found]

    def left(self, pids: list[int]) -> list[int]:
        """Which of them are still there five seconds after the launcher has ended."""
        end = time.monotonic() + 5
        while (found := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def ready(self, runs: Path, *flags: str) -> tuple[subprocess.Popen, list[int], list[int]]:
        """A training at a random moment after its first step, the pids of its trainers, and of all its processes."""
        process = self.start(runs, *flags)
        wait_for_steps(runs, 1)
        time.sleep(self.random.uniform(0, 3))
        return process, self.trainers(process), [process.pid, *descendants_of(process.pid)]

    def kills(self) -> None:
        """SIGKILL to a random process at a random moment, again and again in one run that saves after every step."""
        runs, good, lost, ends, codes = self.folder / "killed", 0, [], [], set()
        for _ in range(self.times):
            before = saved_step(run_in(runs))
            process = self.start(runs, "--save-every=1")
            time.sleep(self.random.uniform(0, 14))
            everyone = [process.pid, *descendants_of(process.pid)]
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(self.trainers(process)), signal.SIGKILL)
            process.wait(60)
            codes.add(process.returncode)
            lost.append(max(last_recorded(run_in(runs)), before) - saved_step(run_in(runs)))
            left = self.left(everyone)
            good += self.holds(lost[-1] <= 1 and not left, f"lost {lost[-1]} steps, left {left}")
            if process.returncode == 0:
                ends.append(self.goes_on(runs))
                shutil.rmtree(runs)
        ends.append(self.goes_on(runs))
        note = f"most steps lost: {max(lost)}; exit codes {sorted(codes)}; bit for bit {sum(ends)} of {len(ends)}"
        self.row(f"{self.kind}SIGKILL to one", self.times, good if all(ends) else 0, note)

    def stops(self, how: str) -> None:
        """A signal to one process, to the launcher or to all; or a STOP file."""
        tried, good, seconds, codes = max(self.times // self.share, 1), 0, [], set()
        number, _, whom = how.partition(" to ")
        for i in range(tried):
            runs = self.folder / f"{how}{i}".replace(" ", "")
            process, trainers, everyone = self.ready(runs)
            begin = time.monotonic()
            if number == "STOP file":
                (run_in(runs) / "STOP").touch()
            elif whom == "all":
                os.killpg(process.pid, getattr(signal, number))
            else:
                pid = process.pid if whom == "the launcher" else self.random.choice(trainers)
                os.kill(pid, getattr(signal, number))
            out, err = process.communicate(timeout=60)
            seconds.append(time.monotonic() - begin)
            codes.add(process.returncode)
            left, count = self.left(everyone), out.count("stopped by")
            ok = self.holds(not left and count == 1, f"{process.returncode}, left {left}: {out[-400:]}{err}")
            good += ok and self.holds(self.is_right(process.returncode, how), str(process.returncode))
            good -= ok and not self.goes_on(runs)
        note = f"slowest exit {max(seconds):.1f} s; exit codes {sorted(codes)}"
        self.row(f"{self.kind}{how}", tried, good, note)

    def is_right(self, code: int, how: str) -> bool:
        return code == {"SIGTERM": 143, "SIGINT": 130}.get(how.split()[0], 0)

    def hangs(self) -> None:
        """A process is frozen: told within the timeout, saved."""
        tried, good, seconds = max(self.times // self.share, 1), 0, []
        for i in range(tried):
            runs = self.folder / f"hangs{i}"
            process, trainers, everyone = self.ready(runs, f"--data-timeout={LIMIT}", "--save-every=1")
            rank = self.random.choice((0, 1) if self.launcher else (1,))  # a frozen shell's child says nothing
            begin = time.monotonic()
            os.kill(trainers[rank], signal.SIGSTOP)
            _, err = process.communicate(timeout=120)
            seconds.append(time.monotonic() - begin)
            left = self.left(everyone)
            told = f"no answer from process {rank} for {LIMIT} s" in err
            good += self.holds(told and not left, f"left {left}: {err[-600:]}") and self.goes_on(runs)
        self.row(f"{self.kind}one is frozen", tried, good, f"slowest end {max(seconds):.1f} s (--data-timeout={LIMIT})")

    def reader(self) -> None:
        """A process that reads images is killed: told in one line, saved."""
        tried, good = max(self.times // self.share, 1), 0
        for i in range(tried):
            runs = self.folder / f"reader{i}"
            process, trainers, everyone = self.ready(runs, "--save-every=1")
            found = [pid for pid in everyone if pid not in trainers and pid != process.pid]
            os.kill(self.random.choice(found), signal.SIGKILL)
            _, err = process.communicate(timeout=60)
            left, told = self.left(everyone), len(re.findall(r"^main\.py: .*worker", err, re.MULTILINE))
            ok = process.returncode == 1 and told == 1 and not left
            good += self.holds(ok, f"{process.returncode}, left {left}: {err[-600:]}") and self.goes_on(runs)
        self.row(f"{self.kind}a reader is killed", tried, good)


class ByTorchrun(ByProcesses):
    """Started by torchrun, which starts them again."""

    kind = "torchrun: "
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    own_flags = [*FLAGS, "--num-workers=1"]

    def start(self, runs: Path, *flags: str, **options) -> subprocess.Popen:
        options["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
        return torture.Torture.start(self, runs, *flags, **options)

    def trainers(self, launcher: subprocess.Popen) -> list[int]:
        return [pid for pid in torture.children_of(launcher.pid) if is_trainer(pid)]

    def is_right(self, code: int, how: str) -> bool:
        """That of torchrun itself where it was sent the signal, else 0: what was asked for is not started again."""
        return code == 0 or "one" not in how and "STOP" not in how

    def kills(self) -> None:
        """In one launch, which goes on by itself."""
        runs, tried, lost, ends, starts = self.folder / "again", 0, [], [], 0
        self.launcher = [*self.launcher, f"--max-restarts={self.times}"]
        while tried < self.times:
            process, starts = self.start(runs, "--save-every=1"), starts + 1
            while tried < self.times:
                time.sleep(self.random.uniform(1, 14))
                if process.poll() is not None:
                    break
                if not (found := self.trainers(process)):
                    continue
                before = last_recorded(run_in(runs)) if run_in(runs) else 0
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.random.choice(found), signal.SIGKILL)
                    tried += 1
                    lost.append(before - saved_step(run_in(runs)))
            _, err = process.communicate(timeout=300)
            ends.append(self.holds(process.returncode == 0, err[-2000:]) and self.is_whole(runs))
            shutil.rmtree(runs)
        note = f"in {starts} launches; most steps lost: {max(lost)}; bit for bit {sum(ends)} of {len(ends)}"
        self.row(f"{self.kind}SIGKILL to one", tried, tried if all(ends) and max(lost) <= 1 else 0, note)


def is_trainer(pid: int) -> bool:
    """Whether it is a process of main.py, and none that reads images for one."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        return str(ROOT / "main.py").encode() in words and not is_forked(int(parent), words)
    return False


def is_forked(parent: int, words: list[bytes]) -> bool:
    """Whether a process with these words was forked by its parent: then the parent has the same."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0") == words
    return False


def main(data: str = torture.DEMO, times: int = 20, epochs: int = 2, seed: int = 0, only: str = "") -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    stops = ["STOP file", *(f"{name} to {whom}" for name in ("SIGTERM", "SIGINT") for whom in ("one", "all"))]
    failed = False
    print(f"{'fault':<46} {'tried':>5} {'survived':>9}", flush=True)
    for kind in (ByProcesses, ByTorchrun):
        if data == torture.DEMO and not Path(data).exists():
            open_dataset("Demo")  # draws it
        with tempfile.TemporaryDirectory(prefix="torture") as folder:
            tried = kind(data, times, epochs, seed, Path(folder))
            faults: dict[str, Callable[[], None]] = {
                "SIGKILL": tried.kills,
                "frozen": tried.hangs,
                "reader": tried.reader,
            }
            faults |= {how: lambda how=how, tried=tried: tried.stops(how) for how in stops}
            if kind is ByTorchrun:
                faults["SIGTERM to the launcher"] = lambda tried=tried: tried.stops("SIGTERM to the launcher")
            else:
                faults["full disk"] = tried.full_disk
            for name, fault in faults.items():
                if only in f"{kind.kind}{name}":
                    fault()
            failed |= any(count != survived for _, count, survived, _ in tried.rows)
    sys.exit(failed)


if __name__ == "__main__":
    fire.Fire(main)
