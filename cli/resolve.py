"""The options of one command: defaults < saved run < preset (--config) < flags, and what would have no effect."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import models
from cli import foreign, presets
from config import LEARN, USE, Config
from utils import registry, torch_optim
from utils.errors import NoEffectError, UsageError, nearest
from utils.options import dashed

FORMER_DEFAULTS = {"momentum": 0.9, "nesterov": True}  # in the config.yaml of runs before 2026-11-25
TEXTS = [name for name in Config.fields() if Config.type_of(name) == "text"]  # free text: it may be empty
OF_CHECKPOINT = ("dataset", "image_size", "model_args")  # val and test read them for weights without options
TASKS = Path(__file__).resolve().parent.parent / "engine" / "tasks"


def resolve(command: str, flags: Mapping[str, Any], saved: Mapping[str, Any] | None = None) -> Config:
    """The options of `command`.

    Args:
        flags: what was typed, or given in Python; `config` names a preset.
        saved: the config of a checkpoint or of a run folder.

    Raises:
        UsageError: an unknown option, one that `command` does not read or that has no effect, or a value out of place.
    """
    flags = dict(flags)
    _check_empty(flags)
    config = flags.pop("config", None)
    preset = {} if config is None else presets.read(config)
    _check_flags(flags, command, {name: value for name, (value, _) in preset.items()})
    for name, (_, place) in preset.items():
        if name not in Config.fields():
            raise UsageError(f"{place}: unknown option {name!r}.{nearest(name, Config.fields())}")
    places = {name: place for name, (_, place) in preset.items()} | {name: "--" + dashed(name) for name in flags}
    # A preset describes a whole experiment; the parts that this command does not read leave the saved run alone.
    unread = [k for k in preset if command not in Config.commands_of(k) or (command in USE and k in OF_CHECKPOINT)]
    given = {k: v for k, (v, _) in preset.items() if saved is None or k not in unread} | flags
    known = {k: v for k, v in (saved or {}).items() if k in Config.fields()}
    origin = dict.fromkeys(known, "the saved run's config")
    opt = Config(origin | places, **known | given)
    opt._typed = frozenset(flags)
    given_places = {name: places[name] for name in given}
    new = (command in LEARN and not opt.resume) or (command == "summary" and not opt.load_path)
    if saved is not None or new:  # else the model is not known yet
        _check_task(opt, given_places)
        _check_effect(command, opt, given_places, saved or {})
        if saved is None or command in LEARN:
            models.find(opt.model)  # the default's own file may be broken
            _check_arguments(opt, given_places)
    if (new or command in LEARN) and opt.dataset is None:
        opt.dataset = models.constants(opt.model).get("dataset", "DogCat")
    return opt


def task_of(model: str) -> registry.Entry:
    """The task that trains and evaluates the model: a class of engine/tasks/, or one beside the model's own class.

    Raises:
        UsageError: there is none of the name that the model's class gives.
    """
    name, known = models.task_of(model), registry.scan(TASKS, "Task", "engine.tasks")
    if name in known:
        return known[name]
    if registry.is_external(name):
        return registry.external(name, "task")
    if registry.is_external(model):
        return registry.external(f"{model.rpartition(':')[0]}:{name}", "task")
    raise UsageError(f"{model} names the task {name!r}: the tasks are {', '.join(known)}.{registry.left_out(TASKS)}")


def for_classifiers(opt: Config, *names: str) -> None:
    """Refuses switches, of those named, where the model is no classifier.

    Raises:
        UsageError: one is on, and the model's task has other losses than one that falls to 0.
    """
    task = task_of(opt.model)
    for name in names:
        if getattr(opt, name) and "classification" not in task.constants.get("option_groups", ()):
            raise UsageError(
                f"--{dashed(name)} is for classifiers, whose loss falls as they learn: the task of {opt.model} is "
                f"{task.name}; `train --watch` looks into any net"
            )


def allowed(command: str, model: str | None = None) -> list[str]:
    """The options that `command` reads; with `model`, without those of other tasks."""
    theirs = _groups_of_others(task_of(model)) if model else set()
    return [n for n in Config.fields() if command in Config.commands_of(n) and Config.group_of(n) not in theirs]


def _check_empty(flags: Mapping[str, Any]) -> None:
    """Refuses flags without a text, as an unset variable of the shell leaves them: that would clear the option."""
    for name, value in flags.items():
        known = name in Config.fields()
        if (known or name == "config") and isinstance(value, str) and not value.strip() and name not in TEXTS:
            flag, wanted = f"--{dashed(name)}", Config.type_of(name) if known else "a preset"
            none = known and (Config.may_be_none(name) or isinstance(Config.default_of(name), (list, dict)))
            hint = f" type {flag}=None for none" if none else ""
            raise UsageError(f"{flag}= is empty: it takes {wanted}; an unset variable?{hint}")


def _check_flags(flags: Mapping[str, Any], command: str, preset: Mapping[str, Any]) -> None:
    """Refuses flags that do not exist, or that `command` does not read."""
    for name, value in flags.items():
        flag = f"--{dashed(name)}"
        if name not in Config.fields():
            options = allowed(command, _model_of({**preset, **flags}))
            ours = foreign.answer(name, str(value), options)
            hint = f": {ours}." if ours else f".{nearest(name, [*options, 'config'])}"
            raise UsageError(f"unknown option {flag}{hint} `help {command}` lists the options of {command}")
        if command not in Config.commands_of(name):
            raise UsageError(
                f"{flag} has no effect on {command}: it is an option of {', '.join(Config.commands_of(name))}"
            )


def _model_of(values: Mapping[str, Any]) -> str | None:
    """The model of a command line that may be wrong in other ways; None where it is not known, or the run's own."""
    if "resume" in values or "load_path" in values:
        return None
    model = values.get("model", Config.default_of("model"))
    try:
        return Config(model=model).model
    except UsageError:
        return None


def _groups_of_others(task: registry.Entry) -> set[str]:
    """The groups of options that only other tasks read."""
    tasks = registry.scan(TASKS, "Task", "engine.tasks").values()
    groups = {group for other in tasks for group in other.constants.get("option_groups", ())}
    return groups - set(task.constants.get("option_groups", ()))


def _check_task(opt: Config, places: Mapping[str, str]) -> None:
    """Refuses options, given in `places`, that the model's task does not read."""
    task = task_of(opt.model)
    others = _groups_of_others(task)
    for name, place in places.items():
        flag = place.startswith("--")  # a run's config.yaml holds every option: there the defaults of others may stand
        if Config.group_of(name) in others and (flag or getattr(opt, name) != Config.default_of(name)):
            what = _where(name, places)
            group = Config.group_of(name)
            ours = foreign.answer("learning_rate", "", allowed("train", opt.model)) if name.startswith("lr") else ""
            raise NoEffectError(
                f"{what} has no effect on {opt.model}: it is an option of {group}, and the task {task.name} "
                f"reads {', '.join(task.constants.get('option_groups', ())) or 'none of these groups'}"
                + (f"; {ours}" if ours else ""),
                name,
            )


def _check_arguments(opt: Config, places: Mapping[str, str]) -> None:
    """Refuses arguments that the model's class does not take."""
    taken = models.parameters(opt.model)
    for name in places:
        asked = Config.extra(name)["model_argument"] and getattr(opt, name) is not None
        if asked and taken is not None and name not in taken:
            own = [n for n in Config.fields() if Config.extra(n)["model_argument"] and n in taken]
            also = f", which takes {', '.join(own)}" if own else ""
            raise NoEffectError(f"{_where(name, places)} has no effect on {opt.model}{also}", name)
    models.check_arguments(opt.model, opt.model_args)


def _where(name: str, places: Mapping[str, str]) -> str:
    """How an error names an option: as the flag, or as the option in a file."""
    return places[name] if places[name].startswith("--") else f"{places[name]}: {name}"


def _check_effect(command: str, opt: Config, places: Mapping[str, str], saved: Mapping[str, Any]) -> None:
    """Refuses options, given in `places`, that the others leave without effect.

    A preset describes a whole: what a flag beside it leaves without effect is no mistake of the user's.
    """
    reasons = {}  # {option: (the option that decides, why)}
    taken = torch_optim.parameters(opt.optimizer)
    for name in ("momentum", "nesterov", "weight_decay"):
        if taken is not None and name not in taken:
            reasons[name] = ("optimizer", f"{opt.optimizer} takes no {name}")
    if opt.optimizer == "Muon":
        reasons["backbone_lr"] = ("optimizer", "Muon has two rates of its own; take AdamW or SGD")
    if opt.optimizer != "Muon":
        reasons["hyperball"] = ("optimizer", f"it is Muon's, and the optimizer is {opt.optimizer}")
    if opt.scheduler == "onecycle":
        reasons["warmup"] = ("scheduler", "onecycle has its own")
    if opt.scheduler != "plateau":
        reasons["lr_decay"] = ("scheduler", f"it is the factor of plateau, and the scheduler is {opt.scheduler}")
    if opt.dry_run:
        reasons["profile"] = ("dry_run", "a dry run trains too little for that")
    if not opt.sort_into:
        reasons |= dict.fromkeys(("unsure_below", "copies"), ("sort_into", "--sort-into=DIR makes the folder"))
    if opt.format != "onnx":
        reasons["quantize"] = ("format", f"it takes --format=onnx, not {opt.format}")
    if opt.format == "safetensors":
        why = "such a file holds the weights as they are"
        reasons |= dict.fromkeys(("pixels", "parity"), ("format", why))
    if opt.on_bad_image == "fill" and command != "test":
        raise UsageError(f"--on-bad-image=fill is for test, which fills a row: {command} takes fail or skip")
    for name, (decider, reason) in reasons.items():
        place = places.get(name, "")
        flag, overridden = place.startswith("--"), places.get(decider, "").startswith("--")
        # what repeats the default or the saved run, as a run's config.yaml does, asks for nothing
        idle = getattr(opt, name) in (Config.default_of(name), saved.get(name), FORMER_DEFAULTS.get(name))
        if flag or (place and not idle and not overridden):
            raise NoEffectError(f"{_where(name, places)} has no effect: {reason}", name)
