"""Workers of one sweep that are killed at random moments: prints a table of what was tried and what came of it.

    python tests/torture_sweeps.py [--trials=60] [--workers=4] [--seconds=180] [--seed=0]

For so many seconds a random worker is killed every few seconds, and another one started in its place; the last ones are
left to finish. Survived means: every trial has ended once, none is lost or doubled, each is bit for bit that of its
number in a sweep that nobody disturbed, and so is the best.
"""

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
from sweeps.folder import Sweep, Trial  # noqa: E402
from sweeps.results import best_of  # noqa: E402
from tests.compare import record, same, trained  # noqa: E402
from utils import checkpoints  # noqa: E402

FLAGS = ["--model=LeNet", "--image-size=32", "--batch-size=16", "--max-epoch=10", "--num-workers=0", "--vis-port=None"]
FLAGS += ["--use-gpu=false", "--amp=off", "--threads=1", "--save-every=1", "--sampler=random", "--pruner=none"]
FLAGS += ["--lr=1e-4..1e-1", "--optimizer=SGD,AdamW", "--ema=0,0.9"]


def start(runs: Path, images: Path, trials: int, name: str = "one") -> subprocess.Popen:
    words = [*FLAGS, f"--train-data-root={images}", f"--trials={trials}", f"--name={name}", f"--checkpoint-dir={runs}"]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "sweep", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def main(trials: int = 60, workers: int = 4, seconds: float = 180, seed: int = 0) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="sweeps") as name:
        folder = Path(name)
        drawing.write(folder, train_per_class=40, test=1)
        images, runs = folder / "train", folder / "runs"
        begin = time.monotonic()
        start(runs, images, trials, "alone").communicate()
        alone = time.monotonic() - begin
        running = [start(runs, images, trials) for _ in range(workers)]
        begin, kills = time.monotonic(), 0
        while time.monotonic() < begin + seconds and len(list((runs / "one").glob("trial_*.json"))) < trials:
            time.sleep(chance.uniform(2, 10))
            index = chance.randrange(workers)
            running[index].kill()
            kills += running[index].wait() == -signal.SIGKILL
            running[index] = start(runs, images, trials)
        errors = [process.communicate(timeout=900)[1] for process in running]
        took = time.monotonic() - begin
        whole, found = (Sweep.open(runs / name).trials() for name in ("alone", "one"))
        names = sorted(path.name for path in (runs / "one").glob("trial_*/"))
        once = [trial.name for trial in found] == names and len(names) == trials == len(whole)
        complete = sum(trial.ended == "complete" for trial in found)
        equal = sum(is_same(*pair) for pair in zip(whole, found, strict=False))
        best = [best_of(trials, False) for trials in (whole, found)]
        print(
            f"{'workers':<8} {'trials':>6} {'kills':>6} {'seconds':>8} {'alone':>6} {'complete':>9} {'bit for bit':>12}"
        )
        print(f"{workers:<8} {len(found):>6} {kills:>6} {took:>8.0f} {alone:>6.0f} {complete:>9} {equal:>12}")
        print("the best:", *(f"{trial.name}, {trial.value:.4f}" for trial in best), *filter(None, errors))
        for trial in found:
            if trial.ended != "complete":
                print(f"{trial.name}: {trial.ended} {trial.why}")
        sys.exit(not (once and complete == equal == trials and best[0].name == best[1].name))


def is_same(one: Trial, other: Trial) -> bool:
    """Whether two trials have the same options, record and weights, bit for bit."""
    runs = [one.run(), other.run()]
    states = [trained(checkpoints.read(run / "last.pth")) for run in runs]
    return one.options == other.options and record(runs[0]) == record(runs[1]) and same(*states)


if __name__ == "__main__":
    fire.Fire(main)
