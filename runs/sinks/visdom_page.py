"""The visdom page of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from runs.sinks import Sink
from utils.visualize import Visualizer


class VisdomPage(Sink):
    """Lines against the step or the epoch, the confusion matrix, pictures, the log; kept on the server each epoch."""

    hidden = {"step": ("time",), "epoch": ("time", "seconds", "rate", "lr")}

    def __init__(self, vis: Visualizer) -> None:
        self.vis = vis
        self.classes: list[str] = []

    @classmethod
    def create(cls, folder: Path, opt: Config, warn: Callable[[str], None]) -> "VisdomPage | None":
        return cls(Visualizer(env=opt.env or folder.name, port=opt.vis_port, warn=warn)) if opt.vis_port else None

    def log_event(self, event: dict[str, Any]) -> None:
        by = event["kind"]
        if "classes" in event:
            self.classes = event["classes"]
        if by not in self.hidden:
            return
        shown = {k: v for k, v in event.items() if isinstance(v, float) and k not in self.hidden[by]}
        titles = {name: name.replace("_", " ") + (" by step" if by == "step" else "") for name in shown}
        self.vis.plot_many({titles[name]: value for name, value in shown.items()}, x=event[by], xlabel=by)
        if "val_confusion" in event:
            opts = {"title": "confusion matrix", "rownames": self.classes, "columnnames": self.classes}
            self.vis.heatmap(np.array(event["val_confusion"]), win="confusion matrix", opts=opts)
        if by == "epoch":
            self.vis.save()

    def log_image(self, name: str, image: np.ndarray) -> None:
        self.vis.img(name, image.transpose(2, 0, 1))

    def log_text(self, line: str) -> None:
        self.vis.log(line)

    def close(self) -> None:
        self.vis.close()
