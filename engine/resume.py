"""Going on with a run: its options, its newest good checkpoint, and what differs from then. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli import presets
from config import Config, dashed
from utils import checkpoints
from utils.errors import RunError, UsageError

FIXED = ("model", "optimizer", "seed", "val_fraction", "nz", "ngf", "ndf")  # else the saved state means nothing
OWN = ("load_path", "pretrained")  # a resumed run has its own weights


def options(flags: Mapping[str, Any]) -> tuple[Config, Path | None]:
    """The options of `train`, and the run folder to go on with, or None: saved options < preset < flags.

    Raises:
        UsageError: no such run, or flags that make no sense for it.
    """
    opt = Config.resolve("train", flags)
    if opt.resume is None:
        return opt, None
    folder = _folder(opt.resume, opt.checkpoint_dir)
    for name in set(OWN) & flags.keys():
        raise UsageError(f"--resume goes on with the run's own weights: leave out --{dashed(name)}")
    saved = {name: text for name, (text, _) in presets.read(folder / "config.yaml").items()}
    saved["use_gpu"] = "false" if saved.get("use_gpu") == "false" else None  # the machine may be another one
    opt, before = Config.resolve("train", flags, saved), Config.resolve("train", {}, saved)
    for name in FIXED:
        if getattr(opt, name) != getattr(before, name):
            raise UsageError(
                f"{folder} was trained with {name} {getattr(before, name)}, not {getattr(opt, name)}: leave that as it "
                f"was, or start anew from its weights with --load-path={folder}"
            )
    return opt.model_copy(update={"resume": None}), folder


def _folder(path: str, runs: str) -> Path:
    folder = checkpoints.newest(runs, "config.yaml") if path == "last" else Path(path)
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.exists() else f"no run folder {folder}"
        raise UsageError(f"{what}: give a folder of {runs}/ as --resume=RUN_FOLDER, or --resume=last")
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is no run folder: it holds no config.yaml")
    return folder


@dataclass
class ResumePoint:
    """What a run left: the content of its newest good checkpoint, and a line for each damaged one that is newer.

    The content is None where the run was ended before it saved anything.
    """

    content: dict | None = None
    path: Path | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        return self.content["epoch"] if self.content else 0

    @property
    def step(self) -> int:
        return self.content["step"] if self.content else 0

    @property
    def best(self) -> Path | None:
        """The checkpoint where it is the best one; the run may have been killed before it was named so."""
        if not self.content or self.content.get("now", {}).get("seen"):
            return None
        return self.path if 0 < self.content["best_epoch"] == self.content["epoch"] else None

    def told(self, folder: Path | None, metadata: dict) -> list[str]:
        """The lines that tell where the training goes on, and what differs.

        Args:
            metadata: what this training's checkpoints will say of themselves.
        """
        if folder is None:
            return []
        if self.content is None:
            return [f"going on with {folder}, from the start: nothing was saved"]
        lines = [f"warning: {line}" for line in self.damaged]
        lines.append(f"going on with {self.path}: step {self.step}, epoch {self.epoch + 1}")
        changed = differences(self.content, metadata)
        return lines + (["what differs from the saved run:", *(f"  {line}" for line in changed)] if changed else [])


def load_latest(folder: Path, classes: list[str]) -> ResumePoint:
    """Reads the newest good checkpoint of a run folder.

    Raises:
        RunError: there are checkpoints, and all are damaged.
        UsageError: it was trained on others than these classes.
    """
    damaged = []
    for path in checkpoints.saved_in(folder):
        try:
            content = checkpoints.read(path)
        except UsageError as e:
            damaged.append(str(e))
            continue
        if "config" not in content:
            raise UsageError(f"{path} holds weights only: start from it with train --load-path={path}")
        if content["classes"] != classes:
            raise UsageError(
                f"{folder} was trained on the classes {content['classes']}, and these images have {classes}: "
                "give its images as --train-data-root=DIR"
            )
        return ResumePoint(content, path, damaged)
    if damaged:
        raise RunError(
            f"no checkpoint in {folder} can be read; {len(damaged)} tried, the newest: {damaged[0]}. "
            f"To start again: python main.py train --config={folder / 'config.yaml'}"
        )
    return ResumePoint()


def differences(content: dict, metadata: dict) -> list[str]:
    """What differs between a saved run and this one, a line each: options, files of the data set, the machine.

    Args:
        content: the checkpoint's. about: what this training's checkpoints will say of themselves.
    """
    then, now = content["config"], metadata["config"]
    lines = [f"{name}: {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    old, new = content["images"], metadata["images"]
    for part, title in (("train", "training"), ("val", "validation")):
        if old[part] != new[part]:
            lines.append(f"{title} images: {old[part]} -> {new[part]}")
        elif old.get(files := f"{part}_files", new[files]) != new[files]:
            lines.append(f"{title} images: as many, but other files (by name and size)")
    old, new = content["machine"], metadata["machine"]
    changed = [f"{name}: {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]
    if changed:
        lines += [*changed[:-1], f"{changed[-1]} (so the last bits will differ from those of an uninterrupted run)"]
    return lines
