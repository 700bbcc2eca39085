"""What trials have given, in words. Imports no Optuna."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from runs import history
from sweeps.folder import Sweep, Trial
from utils.errors import UsageError
from utils.text import counted


def falls(trials: Sequence[Trial]) -> bool:
    """Whether less of the monitored metric is better, as the first run says."""
    found = (history.read(trial.run()) for trial in trials)
    return next((past.falls for past in found if past), False)


def best_of(trials: list[Trial], falls: bool) -> Trial | None:
    """The best of the trials that are complete."""
    done = [trial for trial in trials if trial.ended == "complete" and trial.value is not None]
    return max(done, key=lambda t: (-t.value if falls else t.value, -t.number), default=None)  # type: ignore[operator]


def line(trial: Trial, falls: bool, trials: list[Trial]) -> str:
    """What is told of a trial that has ended."""
    point = "  ".join(f"{name} {value}" for name, value in trial.point.items())
    told = f"trial {trial.number:<3} {trial.ended:<8}"
    if trial.value is not None:
        spread = f" ± {trial.spread:.4f}" if trial.spread is not None else ""
        told += f"  {trial.value:.4f}{spread}"
    if trial.ended == "pruned" and trial.values:
        told += f" (epoch {max(trial.values)})"
    star = "*" if best_of(trials, falls) is trial else ""
    return f"{told}{star}  {point}" + (f"  {trial.why}" if trial.why else "")


def lines(runs: str | Path) -> Iterator[str]:
    """A line for each sweep in a folder."""
    for path in sorted(Path(runs).glob("[!.]*/sweep.yaml")):
        try:
            sweep = Sweep.open(path.parent)
        except UsageError as e:
            yield str(e)
            continue
        trials = sweep.trials()
        best = best_of(trials, falls(trials))
        told = (
            f"sweep {sweep.name}: {sum(t.ended is not None for t in trials)} of {counted(sweep.plan.trials, 'trial')}"
        )
        told += f", the best {best.name}: {best.value:.4g}" if best else ""
        yield f"{told}; its runs: python main.py runs --checkpoint-dir={path.parent}"
