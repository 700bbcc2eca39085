"""The run folder: all that one training leaves behind."""

import os
import shlex
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from config import CODE, Config
from runs import sinks
from runs.record import Log, Record
from utils import checkpoints, files, launchers, pictures
from utils.options import code_flags
from utils.progress import coloured


class Run:
    """A folder checkpoints/<model>_<dataset>_<MMDD_HHMMSS>/, or <name>/, the files that a training adds to, its views.

    Usable as a path: `val(load_path=run)`.

    Args:
        record, log: None for a run that keeps nothing.
    """

    def __init__(self, folder: Path, record: Record | None = None, log: Log | None = None) -> None:
        self.folder, self.record, self.log_file = folder, record, log
        self.views: list[Any] = []
        self.code: list[str] = []  # flags that name code of the user's: no command runs it unless they are typed again

    @classmethod
    def create(cls, opt: Config) -> "Run":
        """A new folder with the resolved config.yaml."""
        sinks.load_all(opt)  # refuses what is none before there is a folder
        parent = Path(opt.checkpoint_dir)
        with files.disk_errors_as_failure(parent):
            parent.mkdir(parents=True, exist_ok=True)
            hidden = Path(tempfile.mkdtemp(prefix=".", dir=parent))  # a folder without its config never shows
            os.chmod(hidden, 0o777 & ~files.umask())
            _write_config(hidden, opt)
            (hidden / "metrics.jsonl").touch()
            launchers.mark(hidden)
        model = opt.model.rpartition(":")[2].replace("/", "_")  # of an external one the class, of timm/NAME timm_NAME
        dataset = (opt.dataset or "").rpartition(":")[2]
        with files.disk_errors_as_failure(parent):
            if opt.name:
                folder = hidden.rename(parent / opt.name)
            else:
                folder = _named(hidden, f"{model}_{dataset}_{time.strftime('%m%d_%H%M%S')}")
        return cls._open(folder, opt, Record(folder / "metrics.jsonl"))

    @classmethod
    def resume(
        cls,
        folder: Path,
        opt: Config,
        epoch: int,
        step: int,
        newest: Path | None,
        best: Path | None,
        views: bool = True,
    ) -> "Run":
        """Resumes in `folder` after `epoch` epochs and `step` steps, to which the record is cut back.

        A run that was killed while it saved gets the names that it still lacks.

        Args:
            newest, best: the checkpoints that last.pth and best.pth must be; None where that is known to be so.
        """
        record = Record(folder / "metrics.jsonl")
        run = cls._open(folder, opt, record, views)
        files.remove_parts(folder)
        _write_config(folder, opt)
        run.replay(record.cut_back({"step": step, "epoch": epoch, "watch": step}))
        for path, name in ((newest, "last.pth"), (best, "best.pth")):
            if path:
                checkpoints.link(path, folder / name)
        return run

    @classmethod
    def _open(cls, folder: Path, opt: Config, record: Record, views: bool = True) -> "Run":
        run = cls(folder, record, Log(folder / "log.txt"))
        run.code = code_flags(opt.model_dump(), CODE)
        run.views = sinks.create_all(folder, opt, run.log) if views else []
        return run

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def keeps_pictures(self) -> bool:
        return self.record is not None

    @property
    def how_to_resume(self) -> str:
        return f"python main.py train --resume={shlex.join([str(self.folder), *self.code])}"

    def log_event(self, kind: str, **values: Any) -> None:
        """One entry of the record."""
        event = {"kind": kind, **values, "time": round(time.time(), 3)}
        if self.record:
            self.record.log_event(event)
        self._show("log_event", event)

    def replay(self, events: list[dict[str, Any]]) -> None:
        """Shows what the record of a resumed run keeps; a view that knows no `replay` gets the entries one by one."""
        for view in list(self.views):
            if hasattr(view, "replay"):
                self._call(view, "replay", events)
                continue
            for event in events:
                self._call(view, "log_event", event)

    def log_net(self, net: Any) -> None:
        """The net that learns, for the views: before the first step, and after each epoch."""
        self._show("log_net", net)

    def save(self, checkpoint: dict[str, Any], step: int, keep: int, better: bool) -> None:
        """Writes step_<step>.pth, of which the newest `keep` stay; last.pth and best.pth are names of such files."""
        for file in filter(None, (self.record, self.log_file)):
            file.sync()
        path = self.folder / f"step_{step:08d}.pth"
        checkpoints.write(checkpoint, path)
        checkpoints.link(path, self.folder / "last.pth")
        if better:
            checkpoints.link(path, self.folder / "best.pth")
        self.keep_only(keep)

    def keep_only(self, count: int) -> None:
        """Removes all but the newest `count` step files; last.pth and best.pth stay."""
        steps = sorted(self.folder.glob("step_*.pth"))
        with files.disk_errors_as_failure(self.folder):
            for path in steps[: len(steps) - count]:
                path.unlink()

    def picture(self, name: str, image: np.ndarray, epoch: int | None = None) -> None:
        """Keeps an (H, W, 3) uint8 picture as samples/<name>_<epoch>.png and shows it."""
        file, samples = name if epoch is None else f"{name}_{epoch:03d}", self.folder / "samples"
        with files.disk_errors_as_failure(samples):
            samples.mkdir(exist_ok=True)  # not the run folder, which somebody may have moved away
        pictures.write(samples / f"{file}.png", image)
        self._show("log_image", name, image)

    def log(self, line: str, best: bool = False) -> None:
        """A line on the terminal, above the progress bar, in log.txt and in the views.

        Args:
            best: the line of the best epoch so far: green on a terminal, as warnings are yellow.
        """
        line = line.encode(errors="backslashreplace").decode()  # a file's name may be no text
        colour = "green" if best else "yellow" if line.startswith("warning: ") else ""
        with suppress(OSError):  # `train | head`, a closed terminal: nobody reads on, the training goes on
            tqdm.write(coloured(line, colour), file=sys.stdout)
            sys.stdout.flush()
        self.log_text(line)

    def log_text(self, line: str) -> None:
        """A line in log.txt and in the views alone."""
        if self.log_file:
            self.log_file.add(line)
        self._show("log_text", line)

    def close(self) -> None:
        self._show("close")
        for file in filter(None, (self.record, self.log_file)):
            file.close()

    def _show(self, method: str, *args: Any) -> None:
        """Calls a method of every view."""
        for view in list(self.views):
            self._call(view, method, *args)

    def _call(self, view: Any, method: str, *args: Any) -> None:
        """Calls a method of a view, if it has one; a view that raises is dropped with a warning."""
        if view not in self.views:
            return
        try:
            getattr(view, method, lambda *_: None)(*args)
        except Exception as e:
            self.views.remove(view)
            self.log(f"warning: the sink {type(view).__name__} is closed: {method} raised {type(e).__name__}: {e}")


class Witness(Run):
    """The run as the processes other than the first one have it: they write and say nothing."""

    def __init__(self, folder: Path, keeps_pictures: bool) -> None:
        super().__init__(folder)
        self._keeps_pictures = keeps_pictures

    @property
    def keeps_pictures(self) -> bool:
        return self._keeps_pictures

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        pass

    log_event = log_net = save = keep_only = picture = log = log_text = _nothing


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
