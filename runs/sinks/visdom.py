"""The visdom page of a run."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from config import Config
from runs import past
from runs.history import is_number
from runs.sinks import Sink, panes
from utils.visualize import MAX_LOG_LINES, Visualizer

UNSAFE = r"[/+\\'\"<>\x00-\x1f]"  # what visdom's page cannot have in the name of an environment


def open_page(
    opt: Config, env: str, warn: Callable[[str], None], greet: Callable[[str], None] | None = None
) -> Visualizer:
    """The environment `env` on the server that the options name; user and password are those of the environment."""
    address = urlsplit(opt.vis_server)
    login = {"username": os.environ.get("VISDOM_USERNAME"), "password": os.environ.get("VISDOM_PASSWORD")}
    server, env = f"{address.scheme}://{address.netloc}", re.sub(UNSAFE, "_", env)
    return Visualizer(env, opt.vis_port, server, warn, greet, base_url=address.path, **login)


class VisdomPage(Sink):
    """Lines against the step or the epoch, the confusion matrix, pictures, the log; kept on the server each epoch.

    Args:
        folder: of the run. shared: the page is not the run's own, so its windows have the run's name.
    """

    def __init__(self, vis: Visualizer, folder: Path, shared: bool) -> None:
        self.vis, self.folder, self.shared = vis, folder, shared
        self.task = ""
        self.classes: list[str] = []
        self.early: list[str] | None = []  # lines of the log from before the windows have their places

    @classmethod
    def create(cls, folder: Path, opt: Config, warn: Callable[[str], None]) -> "VisdomPage | None":
        if opt.vis_port is None:
            return None
        vis = open_page(opt, opt.env or folder.name, warn, lambda page: warn(f"visdom: {page}"))
        return cls(vis, folder, opt.env not in (None, folder.name))

    def replay(self, events: list[dict[str, Any]]) -> None:
        """All that the page showed before the run was resumed."""
        lines, self.early = past.log_lines(self.folder), []  # which has the early ones as well
        self.vis.whole = True
        super().replay(events)
        self.vis.whole = False
        for name, pictures in past.pictures(self.folder).items():
            self.log_image(name, np.asarray(Image.open(pictures[-1][1])))
        for line in lines[-MAX_LOG_LINES:]:
            self.log_text(line)

    def log_event(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if "task" in event:
            self.lay_out(event)
        numbers = {k: v for k, v in event.items() if v is None or is_number(v)}  # JSON has null for NaN
        if kind == "step":
            self.plot("learning rate", "step", {"lr": numbers.pop("lr", None)}, event)
            for name in [name for name in numbers if name not in ("step", "epoch", "time")]:
                self.plot(f"{_words(name)} by step", "step", {"train": numbers[name]}, event)
        elif kind == "epoch":
            self.plot("images a second", "epoch", {"rate": numbers.get("rate")}, event)
            names = [name.partition("_") for name in numbers if name.startswith(("train_", "val_"))]
            for metric in dict.fromkeys(name for _, _, name in names):
                lines = {part: numbers[f"{part}_{metric}"] for part, _, name in names if name == metric}
                self.plot(_words(metric), "epoch", lines, event)
            if "val_confusion" in event:
                self.confusion(np.array(event["val_confusion"]))
            self.vis.save()

    def lay_out(self, event: dict[str, Any]) -> None:
        """Gives the windows their places, in an order of their own: those of a first drawing are."""
        self.task, self.classes = event["task"], event.get("classes") or []
        if self.early is None:  # a resumed run
            return
        for pane in panes.LAYOUTS.get(self.task, ()):
            win, opts = self.window(pane.name, pane.by)
            if pane.kind == "plot":
                self.vis.reserve(win, **opts)
            elif pane.kind == "matrix":
                self.confusion(np.full((len(self.classes),) * 2, np.nan))
            else:
                self.vis.text("", win=win, opts=opts)
        lines, self.early = self.early, None
        for line in lines:
            self.log_text(line)

    def plot(self, name: str, by: str, lines: dict[str, float | None], event: dict[str, Any]) -> None:
        win, opts = self.window(name, by)
        values = {line: np.nan if y is None else y for line, y in lines.items()}
        self.vis.plot_lines(win, values, x=event[by], **opts, showlegend=len(lines) > 1)

    def confusion(self, matrix: np.ndarray) -> None:
        win, opts = self.window("confusion matrix")
        if matrix.size:
            opts |= {"rownames": self.classes, "columnnames": self.classes}
            opts["layoutopts"] = panes.matrix_layout("confusion matrix", matrix)
            self.vis.heatmap(matrix, win=win, opts=opts)

    def log_image(self, name: str, image: np.ndarray) -> None:
        win, opts = self.window(panes.PICTURES.get((self.task, name), name))
        self.vis.img(win, panes.fitted(image, opts["height"]).transpose(2, 0, 1), **opts)

    def log_text(self, line: str) -> None:
        if self.early is not None:
            self.early.append(line)
            return
        win, opts = self.window("log")
        self.vis.log(line, win, stamp=False, **opts)

    def window(self, name: str, by: str = "epoch") -> tuple[str, dict[str, Any]]:
        """Its id, and its options: on a page that runs share both hold the name of the run."""
        win = f"{name} of {self.folder.name}" if self.shared else name
        return win, panes.options(self.task, name, win, by)

    def wait(self) -> str:
        self.vis.wait()
        return self.vis.loss

    def close(self) -> None:
        lines, self.early = self.early or [], None
        for line in lines:
            self.log_text(line)
        self.vis.close()


def _words(name: str) -> str:
    return name.replace("_", " ")
