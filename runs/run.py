"""The run folder: all that one training leaves behind."""

import os
import shlex
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from config import Config
from runs.sinks import Jsonl, Log, Sink, Visdom
from utils import checkpoints, files, pictures
from utils.visualize import Visualizer


class Run:
    """A folder checkpoints/<model>_<dataset>_<MMDD_HHMMSS>/ and the sinks that write into it or show it."""

    def __init__(self, folder: Path, sinks: list[Sink]) -> None:
        self.folder, self.sinks = folder, sinks

    @classmethod
    def create(cls, opt: Config) -> "Run":
        """A new folder with the resolved config.yaml; the visdom page shows the run under `opt.env`."""
        parent = Path(opt.checkpoint_dir)
        parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".", dir=parent))  # a folder without its config never shows
        os.chmod(hidden, 0o777 & ~files.umask())
        _write_config(hidden, opt)
        (hidden / "metrics.jsonl").touch()
        return cls._open(_named(hidden, f"{opt.model}_{opt.dataset}_{time.strftime('%m%d_%H%M%S')}"), opt)

    @classmethod
    def resume(cls, folder: Path, opt: Config, epoch: int, step: int, best: Path | None) -> "Run":
        """Goes on in `folder` after `epoch` epochs and `step` steps, to which the record is cut back.

        Args:
            best: the checkpoint that best.pth must be; None where that is known to be so.
        """
        run = cls._open(folder, opt)
        files.remove_parts(folder)
        _write_config(folder, opt)
        kept = run.sinks[0].cut_back({"step": step, "epoch": epoch})
        for view in run.sinks[2:]:
            for event in kept:
                view.record(event)
        if best:
            checkpoints.link(best, folder / "best.pth")
        return run

    @classmethod
    def _open(cls, folder: Path, opt: Config) -> "Run":
        run = cls(folder, [Jsonl(folder / "metrics.jsonl"), Log(folder / "log.txt")])
        if opt.vis_port:
            run.sinks.append(Visdom(Visualizer(env=opt.env, port=opt.vis_port, warn=run.say)))
        return run

    @property
    def how_to_resume(self) -> str:
        return f"python main.py train --resume={shlex.quote(str(self.folder))}"

    def record(self, kind: str, **figures) -> None:
        for sink in self.sinks:
            sink.record({"kind": kind, **figures, "time": round(time.time(), 3)})

    def save(self, content: dict, step: int, keep: int, better: bool) -> None:
        """Writes step_<step>.pth, of which the newest `keep` stay; last.pth and best.pth are names of such files."""
        for sink in self.sinks:
            sink.sync()
        path = self.folder / f"step_{step:08d}.pth"
        checkpoints.write(content, path)
        checkpoints.link(path, self.folder / "last.pth")
        if better:
            checkpoints.link(path, self.folder / "best.pth")
        self.keep_only(keep)

    def keep_only(self, count: int) -> None:
        """Removes all but the newest `count` step files; last.pth and best.pth stay."""
        steps = sorted(self.folder.glob("step_*.pth"))
        for path in steps[: len(steps) - count]:
            path.unlink()

    def picture(self, name: str, image: np.ndarray, epoch: int) -> None:
        """Keeps an (H, W, 3) uint8 picture as samples/<name>_<epoch>.png and shows it."""
        pictures.write(self.folder / "samples" / f"{name}_{epoch:03d}.png", image)
        for sink in self.sinks:
            sink.picture(name, image)

    def say(self, line: str) -> None:
        """A line on the terminal, above the progress bar, and in every sink that takes text."""
        line = line.encode(errors="backslashreplace").decode()  # a file's name may be no text
        with suppress(OSError):  # `train | head`, a closed terminal: nobody reads on, the training goes on
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        self.note(line)

    def note(self, line: str) -> None:
        """A line for the sinks alone."""
        for sink in self.sinks:
            sink.text(line)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


def _write_config(folder: Path, opt: Config) -> None:
    with files.atomic_write(folder / "config.yaml") as file:
        yaml.safe_dump(opt.model_dump(), file, sort_keys=False, allow_unicode=True)


def _named(hidden: Path, name: str) -> Path:
    """Renames the folder to `name`, or name_2, name_3, ... where runs started within the same second."""
    number = 1
    while True:
        folder = hidden.with_name(name if number == 1 else f"{name}_{number}")
        try:
            return hidden.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            number += 1
