"""Optuna's samplers and pruners (Akiba et al. 2019), asked anew each time over what the folder tells.

So there is no database that a torn line, a stale lock or a dead worker could spoil: Optuna's study is made from the
trials whenever a question is to be answered, and forgotten.
"""

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeps.folder import Trial
from sweeps.space import Choice, Range, Space, points
from utils.errors import UsageError, install

try:
    import optuna
except ImportError as e:
    raise UsageError(f"sweep needs the package optuna: {install('optuna')}") from e

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", None: "RUNNING"}
ATTEMPTS = 20  # at a point that no trial has had yet


def suggest(space: Space, trials: Sequence[Trial], sampler: str, seed: int, falls: bool) -> dict[str, Any] | None:
    """The point of the next trial; None where all points have been tried.

    The same trials and seed give the same point, and two numbers of trials different ones, whoever asks.
    """
    number = len(trials)
    past = [_key(trial.point) for trial in trials]
    for attempt in range(0 if sampler == "grid" else ATTEMPTS):
        mixed = zlib.crc32(f"{seed} {number} {attempt}".encode())
        tpe = optuna.samplers.TPESampler(seed=mixed, constant_liar=True)
        study = _study(space, trials, falls, tpe if sampler == "tpe" else optuna.samplers.RandomSampler(mixed))
        asked = study.ask(_distributions(space)).params
        point = {name: part.typed(asked[name]) for name, part in space.items()}
        if _key(point) not in past:
            return point
    return next((point for point in points(space) or () if _key(point) not in past), None)


def should_prune(space: Space, trials: Sequence[Trial], trial: Trial, pruner: str, epochs: int, falls: bool) -> bool:
    """Whether the trial, by the values that it has so far, is to end here. `trials` may hold it."""
    if pruner == "none" or not trial.values:
        return False
    kind = (
        optuna.pruners.MedianPruner(n_warmup_steps=1)
        if pruner == "median"
        else optuna.pruners.HyperbandPruner(1, max(epochs, 1), 3)
    )
    study = _study(space, [*trials, trial], falls, pruner=kind)  # the last one of a number counts
    verdict = kind.prune(study, study.trials[trial.number])
    trial.rungs = dict(study.trials[trial.number].system_attrs)
    return verdict


def importance(space: Space, trials: Sequence[Trial], falls: bool) -> dict[str, float]:
    """How much of the spread of the results each option explains, the most first; {} where there are too few."""
    done = [trial for trial in trials if trial.ended == "complete"]
    if len(done) < 4 or len(space) < 2 or len({trial.value for trial in done}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that few trials have
        return dict(optuna.importance.get_param_importances(_study(space, trials, falls), evaluator=evaluator))


class Copy:
    """A study in a database, for Optuna's own tools (dashboard, plots): a view, which the sweep never reads.

    Raises:
        UsageError: the database cannot be reached, or its driver is not installed.
    """

    def __init__(self, url: str, name: str, space: Space, trials: Sequence[Trial], falls: bool) -> None:
        self.space = space
        try:
            self.study = optuna.create_study(
                storage=url, study_name=name, direction=_direction(falls), load_if_exists=True
            )
        except Exception as e:  # of any driver
            raise UsageError(f"--storage={url}: {type(e).__name__}: {str(e).splitlines()[0]}") from e
        there = {trial.user_attrs.get("trial") for trial in self.study.get_trials(deepcopy=False)}
        for trial in trials:
            if trial.ended and trial.number not in there:
                self.add(trial)

    def add(self, trial: Trial) -> None:
        told = {"trial": trial.number, "run": str(trial.run())} | ({"why": trial.why} if trial.why else {})
        self.study.add_trial(_frozen(trial, self.space, user_attrs=told))


def _study(space: Space, trials: Sequence[Trial], falls: bool, sampler: Any = None, pruner: Any = None) -> Any:
    study = optuna.create_study(direction=_direction(falls), sampler=sampler, pruner=pruner, study_name="sweep")
    known = {trial.number: trial for trial in trials}
    for number in range(max(known, default=-1) + 1):
        study.add_trial(_frozen(known.get(number), space))
    return study


def _direction(falls: bool) -> Any:
    return optuna.study.StudyDirection.MINIMIZE if falls else optuna.study.StudyDirection.MAXIMIZE


def _frozen(trial: Trial | None, space: Space, **more: Any) -> Any:
    """The trial as Optuna has it; one that is missing has failed."""
    trial = trial or Trial(-1, Path(), {}, {}, "failed")
    params, distributions = _params(trial.point, space), _distributions(space)
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[STATES[trial.ended]],
        value=trial.value if trial.ended == "complete" else None,
        params=params,
        distributions={name: distributions[name] for name in params},
        intermediate_values=trial.values,
        system_attrs=trial.rungs,
        **more,
    )


def _params(point: dict[str, Any], space: Space) -> dict[str, Any]:
    """A point as Optuna has it; what is no longer in the space is left out."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        if name in point and isinstance(part, Range):
            found[name] = int(point[name]) if part.whole else float(point[name])
        elif name in point and isinstance(part, Choice) and str(point[name]) in part.texts:
            found[name] = str(point[name])
    return found


def _distributions(space: Space) -> dict[str, Any]:
    """Of a choice the texts: Optuna takes no lists and mappings."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        if isinstance(part, Choice):
            found[name] = optuna.distributions.CategoricalDistribution(part.texts)
        elif part.whole:
            found[name] = optuna.distributions.IntDistribution(int(part.low), int(part.high), log=part.log)
        else:
            found[name] = optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
    return found


def _key(point: dict[str, Any]) -> str:
    return str(sorted((name, str(value)) for name, value in point.items()))
