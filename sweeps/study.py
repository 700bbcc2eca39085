"""Optuna's samplers and pruners (Akiba et al. 2019), asked anew each time over what the folder tells.

So there is no database that a torn line, a stale lock or a dead worker could spoil: Optuna's study is made from the
trials whenever a question is to be answered, and forgotten.
"""

import warnings
import zlib
from collections.abc import Sequence
from typing import Any

from sweeps.folder import Trial
from sweeps.space import Choice, Range, Space, points
from utils.errors import UsageError

try:
    import optuna
except ImportError as e:
    raise UsageError(
        "sweep needs the package optuna: PIP_CONSTRAINT=constraints.txt pip install -r requirements.txt optuna"
    ) from e

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
    every = points(space)
    if sampler == "grid":
        return next((point for point in every or () if _key(point) not in past), None)
    for attempt in range(ATTEMPTS):
        mixed = zlib.crc32(f"{seed} {number} {attempt}".encode())
        kinds = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=mixed, constant_liar=True),  # noqa: B023
            "random": lambda: optuna.samplers.RandomSampler(seed=mixed),  # noqa: B023
        }
        study = _study(space, trials, falls, kinds[sampler]())
        asked = study.ask(_distributions(space)).params
        point = {
            name: part.values[asked[name]] if isinstance(part, Choice) else part.rounded(asked[name])
            for name, part in space.items()
        }
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
    all_of_them = sorted([*(t for t in trials if t.number != trial.number), trial], key=lambda t: t.number)
    study = _study(space, all_of_them, falls, pruner=kind)
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
        self.space, self.distributions = space, _real_distributions(space)
        direction = optuna.study.StudyDirection.MINIMIZE if falls else optuna.study.StudyDirection.MAXIMIZE
        try:
            self.study = optuna.create_study(storage=url, study_name=name, direction=direction, load_if_exists=True)
        except Exception as e:  # of any driver
            raise UsageError(f"--storage={url}: {type(e).__name__}: {str(e).splitlines()[0]}") from e
        there = {trial.user_attrs.get("trial") for trial in self.study.get_trials(deepcopy=False)}
        for trial in trials:
            if trial.ended and trial.number not in there:
                self.add(trial)

    def add(self, trial: Trial) -> None:
        point = {name: _real(self.space[name], value) for name, value in trial.point.items()}
        self.study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[STATES[trial.ended]],
                value=trial.value if trial.ended == "complete" else None,
                params=point,
                distributions={name: self.distributions[name] for name in point},
                intermediate_values=trial.values,
                user_attrs={"trial": trial.number, "run": str(trial.run())} | ({"why": trial.why} if trial.why else {}),
            )
        )


def _real_distributions(space: Space) -> dict[str, Any]:
    """As a reader wants them: choices by their texts."""
    texts = {name: [str(v) for v in part.values] for name, part in space.items() if isinstance(part, Choice)}
    return _distributions(space) | {k: optuna.distributions.CategoricalDistribution(v) for k, v in texts.items()}


def _real(part: Choice | Range, value: Any) -> Any:
    return str(value) if isinstance(part, Choice) else int(value) if part.whole else float(value)


def _study(space: Space, trials: Sequence[Trial], falls: bool, sampler: Any = None, pruner: Any = None) -> Any:
    study = optuna.create_study(
        direction="minimize" if falls else "maximize", sampler=sampler, pruner=pruner, study_name="sweep"
    )
    distributions = _distributions(space)
    for number in range(trials[-1].number + 1 if trials else 0):
        trial = next((t for t in trials if t.number == number), None)
        study.add_trial(_frozen(trial, space, distributions))
    return study


def _frozen(trial: Trial | None, space: Space, distributions: dict[str, Any]) -> Any:
    """The trial as Optuna has it; one that is missing has failed."""
    state = optuna.trial.TrialState[STATES[trial.ended if trial else "failed"]]
    point = _numbers(trial.point, space) if trial else {}
    known = {name: distributions[name] for name in point}
    values = trial.values if trial else {}
    value = trial.value if trial and trial.ended == "complete" else None
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=point,
        distributions=known,
        intermediate_values=values,
        system_attrs=trial.rungs if trial else None,
    )


def _numbers(point: dict[str, Any], space: Space) -> dict[str, Any]:
    """A point as Optuna's distributions have it; what is not of them is left out."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        if name not in point:
            continue
        if isinstance(part, Choice):
            texts = [str(value) for value in part.values]
            if str(point[name]) in texts:
                found[name] = texts.index(str(point[name]))
        else:
            found[name] = int(point[name]) if part.whole else float(point[name])
    return found


def _distributions(space: Space) -> dict[str, Any]:
    """A choice is that of its place: Optuna takes no lists and mappings."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        if isinstance(part, Choice):
            found[name] = optuna.distributions.CategoricalDistribution(tuple(range(len(part.values))))
        elif part.whole:
            found[name] = optuna.distributions.IntDistribution(int(part.low), int(part.high), log=part.log)
        else:
            found[name] = optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
    return found


def _key(point: dict[str, Any]) -> str:
    return str(sorted((name, str(value)) for name, value in point.items()))
