"""The command `sweep`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from fire.decorators import SetParseFn

from cli import foreign, presets
from cli.resolve import allowed, resolve, task_of
from config import Config
from utils import files, world
from utils.errors import Stopped, UsageError, nearest
from utils.launchers import MAIN, die_with_parent, forget, is_first
from utils.options import dashed

OF_RESUME = ("resume", "checkpoint_dir", "trials", "hours", "parallel", "storage")  # with the first one
OF_WORKER = "SWEEP_WORKER"  # in the environment of the workers that this one starts: number/count


@SetParseFn(str)
def sweep(**flags: Any) -> list[dict[str, Any]]:
    """Search for good options: train many runs, each with values from a range (a..b) or of some (a,b).

    Every option of train can be given, as one value or several. The folder --checkpoint-dir/NAME holds all of it:
    the same command, or --resume=NAME, goes on, and is one more worker, on any machine that sees the folder.

    Returns:
        A dict for each trial.

    Examples:
        python main.py sweep --config=demo --model=LeNet --lr=1e-4..1e-1 --optimizer=SGD,AdamW --trials=8 --name=first
        python main.py sweep --resume=first --trials=16
    """
    own, theirs = split(flags)
    opt = resolve("sweep", own)
    from sweeps import space as spaces
    from sweeps.folder import Sweep
    from sweeps.worker import Worker

    if opt.resume:
        for name in [*theirs, *(name for name in own if name not in OF_RESUME)]:
            raise UsageError(f"--{dashed(name)} has no effect on a sweep that is resumed: it has its own")
        found = Sweep.open(_folder(opt))
        found = found.up_to(opt.trials) if "trials" in own else found
    else:
        found = _begin(opt, theirs)
    plan = found.plan
    _, space = spaces.split(plan.searched)
    number, count = map(int, os.environ.get(OF_WORKER, f"0/{opt.parallel}").split("/"))
    quiet = bool(number) or not is_first()
    forget()  # srun may have started several workers: their trainings are no part of one
    others = [_start(found.folder, opt, i) for i in range(1, opt.parallel)] if OF_WORKER not in os.environ else []
    own_flags, env = _share(number, count)
    worker = Worker(found, space, opt.hours, own_flags, env, quiet=quiet, storage=opt.storage)
    try:
        if not quiet:
            searched = ", ".join(f"{name} {value}" for name, value in plan.searched.items())
            print(f"{found.folder}: {worker.total} trials over {searched}")
        worker.work()
    except Stopped as e:
        if not quiet:
            print(f"stopped by {e}. To go on: python main.py sweep --resume={found.folder}")
        raise
    finally:
        for other in others:
            other.terminate()
        for other in others:
            other.wait()
    return [] if quiet else _summary(found)


def split(flags: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the sweep, and those of its trainings; of the preset, too.

    Raises:
        UsageError: an unknown option; gives the nearest of both.
    """
    values = {}
    if (config := flags.get("config")) is not None:
        preset = {name: value for name, (value, _) in presets.read(config).items()}
        known = Config.fields()
        values = {k: v for k, v in preset.items() if k not in known or {"train", "sweep"} & {*Config.commands_of(k)}}
    values |= {name: value for name, value in flags.items() if name != "config"}
    options = [*allowed("sweep"), *allowed("train"), "config"]
    for name, value in values.items():
        if name not in Config.fields() and not foreign.answer(name, str(value), options):  # else resolve says it
            hint = nearest(name, options)
            raise UsageError(f"unknown option --{dashed(name)}.{hint} `help sweep` and `help train` list the options")
    own = {name: v for name, v in values.items() if name in Config.fields() and "sweep" in Config.commands_of(name)}
    return own, {name: value for name, value in values.items() if name not in own}


def _folder(opt: Config) -> Path:
    name = opt.resume or opt.name
    assert name
    return Path(name) if os.path.isfile(Path(name, "sweep.yaml")) else Path(opt.checkpoint_dir, name)


def _begin(opt: Config, theirs: dict[str, Any]) -> Any:
    from sweeps import space as spaces
    from sweeps.folder import Plan, Sweep

    if not opt.name:
        raise UsageError("name the sweep: --name=NAME makes the folder --checkpoint-dir/NAME")
    fixed, space = spaces.split(theirs)
    spaces.check(fixed, space)
    if not space:
        raise UsageError(
            "nothing is searched: give an option a range, as --lr=1e-4..1e-1, or some values, as --ema=0,0.99"
        )
    if opt.sampler == "grid" and spaces.points(space) is None:
        name = next(name for name, part in space.items() if isinstance(part, spaces.Range))
        raise UsageError(f"--sampler=grid takes values, not a range: --{dashed(name)}=A,B,C")
    if isinstance(models := space.get("model"), spaces.Choice):
        tasks = {task_of(str(model)).name for model in models.values}
        if len(tasks) > 1:
            raise UsageError(
                f"--model={models}: their results cannot be compared, as their tasks are {' and '.join(tasks)}"
            )
    seed = int(fixed.pop("seed", 0))
    plan = Plan(fixed, {name: theirs[name] for name in space}, opt.sampler, opt.pruner, opt.seeds, seed, opt.trials)
    files.check_writable(opt.checkpoint_dir, "--checkpoint-dir", folder=True)
    return Sweep.begin(_folder(opt), plan)


def _start(folder: Path, opt: Config, number: int) -> subprocess.Popen:
    """A further worker of this machine."""
    words = [f"--{name}={value}" for name in ("hours", "storage") if (value := getattr(opt, name))]
    return subprocess.Popen(
        [sys.executable, str(MAIN), "sweep", f"--resume={folder}", *words],
        env=os.environ | {OF_WORKER: f"{number}/{opt.parallel}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches it through this one, once
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )


def _share(number: int, count: int) -> tuple[list[str], dict[str, str]]:
    """Flags and environment by which the trials of worker `number` use its part of the machine."""
    if count == 1:
        return [], {}
    flags = [f"--threads={max(world.cores() // count, 1)}"]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = gpus.split(",") if gpus else [str(i) for i in range(_gpus())]
    return flags, {"CUDA_VISIBLE_DEVICES": visible[number % len(visible)]} if visible else {}


def _gpus() -> int:
    """NVIDIA GPUs of this machine; torch is not imported for it."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _summary(found: Any) -> list[dict[str, Any]]:
    from sweeps.results import best_of, falls

    trials = found.trials()
    best = best_of(trials, falls(trials))
    if best:
        with files.atomic_write(found.folder / "best.yaml") as file:
            file.write(f"# The best trial of the sweep {found.name}: trial {best.number}, {best.value:.4f}.\n")
            yaml.safe_dump(best.options, file, allow_unicode=True)
        print(
            f"best: {best.name}, {best.value:.4f} in epoch {best.epoch}: "
            + "  ".join(f"{k} {v}" for k, v in best.point.items())
        )
        print(f"next: python main.py train --config={found.folder / 'best.yaml'}")
        print(f"      python main.py runs --checkpoint-dir={found.folder}")
    return [{"trial": t.number, "ended": t.ended, "value": t.value, **t.point} for t in trials]
