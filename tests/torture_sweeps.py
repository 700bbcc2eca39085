"""Workers of one sweep that are killed at random moments: prints a table of what was tried and what came of it.

    python tests/torture_sweeps.py [--trials=60] [--workers=4] [--seconds=180] [--seed=0]

For so many seconds a random worker is killed every few seconds, and another one started in its place; the last ones are
left to finish. Survived means: every trial has ended once, none is lost or doubled, each is bit for bit what an
undisturbed sweep makes of its options, and so is the best.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.demo import drawing  # noqa: E402
from sweeps.folder import Sweep  # noqa: E402
from sweeps.results import best_of  # noqa: E402
from tests.compare import record, same, trained  # noqa: E402
from utils import checkpoints  # noqa: E402

FLAGS = ["--model=LeNet", "--image-size=32", "--batch-size=16", "--max-epoch=3", "--num-workers=0", "--vis-port=None"]
FLAGS += ["--use-gpu=false", "--amp=off", "--threads=1", "--save-every=1", "--sampler=random", "--pruner=none"]
FLAGS += ["--lr=1e-4..1e-1", "--optimizer=SGD,AdamW", "--ema=0,0.9"]


def start(runs: Path, images: Path, trials: int) -> subprocess.Popen:
    words = [*FLAGS, f"--train-data-root={images}", f"--trials={trials}", "--name=one", f"--checkpoint-dir={runs}"]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "sweep", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(runs: Path) -> int:
    return len(list((runs / "one").glob("trial_*.json")))


def main(trials: int = 60, workers: int = 4, seconds: float = 180, seed: int = 0) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="sweeps") as name:
        folder = Path(name)
        drawing.write(folder, train_per_class=40, test=1)
        images, runs = folder / "train", folder / "runs"
        running = [start(runs, images, trials) for _ in range(workers)]
        begin, kills = time.monotonic(), 0
        while time.monotonic() < begin + seconds and ended(runs) < trials:
            time.sleep(chance.uniform(1, 5))
            index = chance.randrange(workers)
            os.kill(running[index].pid, signal.SIGKILL)
            kills += running[index].wait() == -signal.SIGKILL
            running[index] = start(runs, images, trials)
        codes = [process.wait(900) for process in running]
        errors = [process.stderr.read() for process in running]
        took = time.monotonic() - begin
        sweep = Sweep.open(runs / "one")
        found = sweep.trials()
        names = sorted(path.name for path in (runs / "one").glob("trial_*/"))
        once = [trial.number for trial in found] == list(range(trials)) == [int(name[6:]) for name in names]
        complete = sum(trial.ended == "complete" for trial in found)
        equal = sum(is_undisturbed(sweep, trial.number, folder / "alone") for trial in found)
        best = best_of(found, False)
        values = [json.loads((runs / "one" / f"{trial.name}.json").read_text())["value"] for trial in found]
        print(
            f"{'workers':<8} {'trials':>6} {'kills':>6} {'seconds':>8} {'complete':>9} {'bit for bit':>12}  exit codes"
        )
        print(f"{workers:<8} {len(found):>6} {kills:>6} {took:>8.0f} {complete:>9} {equal:>12}  {sorted(set(codes))}")
        print(f"the best: {best.name}, {best.value:.4f}, the largest of all {max(values):.4f}", *filter(None, errors))
        sys.exit(not (once and complete == equal == trials and best.value == max(values)))


def is_undisturbed(sweep: Sweep, number: int, alone: Path) -> bool:
    """Whether the run of a trial is that which its preset gives in one go."""
    name = f"trial_{number:03d}"
    words = [f"--config={sweep.folder / name}.yaml", f"--seed={sweep.plan.seed}", f"--name={name}"]
    subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "train", *words, f"--checkpoint-dir={alone}"], stdout=subprocess.DEVNULL
    )
    runs = [sweep.folder / name, alone / name]
    states = [trained(checkpoints.read(run / "last.pth")) for run in runs]
    return record(runs[0]) == record(runs[1]) and same(*states)


if __name__ == "__main__":
    fire.Fire(main)
