"""Where a run's figures go. The record (metrics.jsonl) is the truth, every other sink is a view of it."""

import json
from pathlib import Path

import numpy as np

from utils.visualize import Visualizer


class Sink:
    """A sink that takes nothing; derive from it and take what you can show."""

    def record(self, event: dict) -> None:
        """One entry of the record. `kind` is "start", "step" (figures of one step) or "epoch" (of a whole one)."""

    def picture(self, name: str, image: np.ndarray) -> None:
        """An (H, W, 3) uint8 picture."""

    def text(self, line: str) -> None:
        """A line that the terminal shows too."""

    def close(self) -> None:
        """The run is over."""


class Jsonl(Sink):
    """metrics.jsonl: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8", buffering=1)

    def record(self, event: dict) -> None:
        self.file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        self.file.close()


class Log(Sink):
    """log.txt: what the terminal said."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8", buffering=1)

    def text(self, line: str) -> None:
        self.file.write(line + "\n")

    def close(self) -> None:
        self.file.close()


class Visdom(Sink):
    """The visdom page: lines against the step or the epoch, the confusion matrix, pictures, the log."""

    hidden = {"step": ("time",), "epoch": ("time", "seconds", "rate", "lr", "val_score")}

    def __init__(self, vis: Visualizer) -> None:
        self.vis = vis

    def record(self, event: dict) -> None:
        if event["kind"] == "start":
            self.classes = event["classes"]
            return
        by = event["kind"]
        shown = {k: v for k, v in event.items() if isinstance(v, float) and k not in self.hidden[by]}
        titles = {name: name.replace("_", " ") + (" by step" if by == "step" else "") for name in shown}
        self.vis.plot_many({titles[name]: value for name, value in shown.items()}, x=event[by], xlabel=by)
        if "val_confusion" in event:
            opts = {"title": "confusion matrix", "rownames": self.classes, "columnnames": self.classes}
            self.vis.heatmap(np.array(event["val_confusion"]), win="confusion matrix", opts=opts)

    def picture(self, name: str, image: np.ndarray) -> None:
        self.vis.img(name, image.transpose(2, 0, 1))

    def text(self, line: str) -> None:
        self.vis.log(line)

    def close(self) -> None:
        self.vis.close()
