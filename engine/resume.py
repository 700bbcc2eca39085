"""Resuming a run: its options, its newest good checkpoint, and what differs from then. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import presets
from cli.resolve import resolve
from config import CODE, Config
from runs import history
from utils import checkpoints, launchers, registry
from utils.errors import RunError, UsageError
from utils.options import code_flags, dashed

if TYPE_CHECKING:
    from runs.run import Run

# else the saved state means nothing
FIXED = (
    "model",
    "model_args",
    "optimizer",
    "seed",
    "val_fraction",
    "freeze",
    "nz",
    "ngf",
    "ndf",
    "conditional",
    "backbone_lr",
)
SCHEDULE = ("max_epoch", "lr", "lr1", "lr2", "scheduler", "warmup", "lr_decay")  # what learning rates depend on
OWN = ("load_path", "pretrained")  # a resumed run has its own weights


def resolve_options(flags: Mapping[str, Any]) -> tuple[Config, Path | None]:
    """The options of `train`, and the run folder to resume, or None: saved options < preset < flags.

    Raises:
        UsageError: no such run, or flags that make no sense for it.
    """
    opt = resolve("train", flags)
    if opt.resume is None and (run := launched_before(Path(opt.checkpoint_dir))):
        flags = {name: value for name, value in flags.items() if name not in OWN} | {"resume": str(run)}
        opt = resolve("train", flags)
    if opt.resume is None:
        return opt, None
    folder = _folder(opt.resume, opt.checkpoint_dir)
    for name in set(OWN) & flags.keys():
        raise UsageError(f"--resume continues with the run's own weights: leave out --{dashed(name)}")
    saved = {name: value for name, (value, _) in presets.read(folder / "config.yaml").items()}
    saved = for_this_machine(saved)
    check_named(saved, named_by(flags), CODE, f"{folder} uses")
    code = {name: flags[name] for name in CODE if name in flags and registry.is_external(saved.get(name))}
    opt, before = resolve("train", flags, saved), resolve("train", code, saved)
    for name in FIXED:
        then, now = saved[name] if name in code else getattr(before, name), getattr(opt, name)
        if not _matches(name, then, now):
            raise UsageError(
                f"{folder} was trained with {name} {then}, not {now}: leave that as it was, or start anew from its "
                f"weights with --load-path={folder}"
            )
    return opt.model_copy(update={"resume": None}), folder


def launched_before(runs: Path) -> Path | None:
    """The run to go on with where a launcher starts the same command line again; None: it is to begin a run."""
    run = launchers.begun(runs)
    if run is None or launchers.is_restart():
        return run
    past = history.read(run)
    return None if past and past.done >= past.max_epoch else run  # else other machines have come or gone


def _matches(name: str, then: Any, now: Any) -> bool:
    """Whether a fixed option is as it was; code of the user's may lie in another place."""
    return then == now or (name in CODE and registry.same(str(then), str(now)))


def for_this_machine(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved options without those of the machine of then: that it had a GPU does not ask for one now."""
    off = str(saved.get("use_gpu")).lower() == "false"
    return dict(saved) | {"use_gpu": False if off else None, "threads": None}


def named_by(flags: Mapping[str, Any]) -> set[str]:
    """The options that the user gives now, by flags or in the preset that they name."""
    return {*flags, *(presets.read(flags["config"]) if flags.get("config") is not None else ())}


def check_named(saved: Mapping[str, Any], given: Any, options: tuple[str, ...], who: str) -> None:
    """Refuses code outside of this program that a saved run names and the user does not: it is never imported for that.

    Args:
        saved: the run's options. given: names of the options that the user gives now.
    """
    missing = code_flags(saved, [option for option in options if option not in given])
    if missing:
        raise UsageError(
            f"{who} code outside of this program, which is run only where you name it: add {' '.join(missing)}"
        )


def _folder(path: str, runs: str) -> Path:
    folder = checkpoints.newest(runs, "config.yaml") if path == "last" else checkpoints.named(path, runs)
    if not os.path.isdir(folder):
        what = f"{folder} is a file" if os.path.exists(folder) else f"no run folder {folder}"
        raise UsageError(f"{what}: give a folder of {runs}/ as --resume=RUN_FOLDER, or --resume=last")
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is not a run folder: it holds no config.yaml")
    return folder


@dataclass
class ResumePoint:
    """Where a run is resumed: its newest good checkpoint, and a line for each damaged one that is newer.

    The checkpoint is None where the run was ended before it saved anything.
    """

    checkpoint: dict[str, Any] | None = None
    path: Path | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def trainer(self) -> dict[str, Any]:
        """The state of the trainer."""
        return self.checkpoint["trainer"] if self.checkpoint else {}

    @property
    def epoch(self) -> int:
        return self.trainer.get("epoch", 0)

    @property
    def step(self) -> int:
        return self.trainer.get("step", 0)

    @property
    def newest(self) -> Path | None:
        """The checkpoint, unless it is last.pth already, or a name of it."""
        return self.path if self.path and self.path.name.startswith("step_") else None

    @property
    def best(self) -> Path | None:
        """The checkpoint where it is the best one; the run may have been killed before it was named so."""
        if not self.checkpoint or self.trainer.get("progress", {}).get("seen"):
            return None
        return self.path if 0 < self.trainer["best_epoch"] == self.epoch else None

    def reschedules(self, opt: Config) -> bool:
        """Whether the options change the learning rate of the steps to come."""
        then = self.checkpoint["metadata"]["config"] if self.checkpoint else {}
        return any(then.get(name, getattr(opt, name)) != getattr(opt, name) for name in SCHEDULE)

    def open_run(self, folder: Path, opt: Config) -> "Run":
        """The run in `folder`, at this point; without views where it has done its epochs."""
        from runs.run import Run  # imports numpy

        done = self.epoch >= opt.max_epoch
        return Run.resume(folder, opt, self.epoch, self.step, self.newest, self.best, views=not done)

    def messages(self, folder: Path | None, metadata: dict[str, Any]) -> list[str]:
        """The lines that say where the training is resumed, and what differs.

        Args:
            metadata: what this training's checkpoints will say of themselves.
        """
        if folder is None:
            return []
        if self.checkpoint is None:
            return [f"resuming {folder} from the start: nothing was saved"]
        lines = [f"warning: {line}" for line in self.damaged]
        lines.append(f"resuming from {self.path}: step {self.step}, epoch {self.epoch + 1}")
        changed = differences(self.checkpoint["metadata"], metadata)
        return lines + (["what differs from the saved run:", *(f"  {line}" for line in changed)] if changed else [])


def load_latest(folder: Path, opt: Config, classes: list[str]) -> ResumePoint:
    """Reads the newest good checkpoint of a run folder.

    Args:
        opt: the options to resume with, from the folder's config.yaml, which may have been edited.

    Raises:
        RunError: there are checkpoints, and all are damaged.
        UsageError: it was trained on others than these classes, or with other options of those that are FIXED.
    """
    damaged = []
    for path in checkpoints.saved_in(folder):
        try:
            checkpoint = checkpoints.read(path)
        except UsageError as e:
            damaged.append(str(e))
            continue
        if "config" not in checkpoint["metadata"]:
            raise UsageError(f"{path} holds weights only: start from it with train --load-path={path}")
        if checkpoint["metadata"]["classes"] != classes:
            raise UsageError(
                f"{folder} was trained on the classes {checkpoint['metadata']['classes']}, and these images have "
                f"{classes}: give its images as --train-data-root=DIR"
            )
        _check_fixed(folder, opt, checkpoint["metadata"]["config"])
        return ResumePoint(checkpoint, path, damaged)
    if damaged:
        raise RunError(
            f"no checkpoint in {folder} can be read; {len(damaged)} tried, the newest: {damaged[0]}. "
            f"To start again: python main.py train --config={folder / 'config.yaml'}"
        )
    return ResumePoint()


def _check_fixed(folder: Path, opt: Config, config: Mapping[str, Any]) -> None:
    """Refuses a config.yaml that was edited where it may not be; `config`: of the checkpoint."""
    for name in FIXED:
        then, now = config.get(name, getattr(opt, name)), getattr(opt, name)
        if not _matches(name, then, now):
            raise UsageError(
                f"{folder / 'config.yaml'} says {name} {now}, but its checkpoints were trained with {then}: "
                f"write {name}: {then}, or start anew from its weights with --load-path={folder}"
            )


def differences(saved: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    """What differs between a saved run and this one, a line each: options, files of the data set, the machine.

    Args:
        saved: the metadata of the checkpoint. metadata: what this training's checkpoints will say of themselves.
    """
    then, now = saved["config"], metadata["config"]
    lines = [f"{name}: {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    old, new = saved["images"], metadata["images"]
    for part, title in (("train", "training"), ("val", "validation")):
        if old[part] != new[part]:
            lines.append(f"{title} images: {old[part]} -> {new[part]}")
        elif old.get(files := f"{part}_files", new[files]) != new[files]:
            lines.append(f"{title} images: as many, but other files (by name and size)")
    old, new = saved["machine"], metadata["machine"]
    changed = [f"{name}: {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]
    if changed:
        lines += [*changed[:-1], f"{changed[-1]} (so the last bits will differ from those of an uninterrupted run)"]
    return lines
