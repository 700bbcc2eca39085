"""The run folder: all that one training leaves behind."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from config import Config
from utils import files
from utils.sinks import Jsonl, Log, Sink, Visdom
from utils.visualize import Visualizer


class Run:
    """A folder checkpoints/<model>_<dataset>_<MMDD_HHMMSS>/ and the sinks that write into it or show it."""

    def __init__(self, folder: Path, sinks: list[Sink]) -> None:
        self.folder, self.sinks = folder, sinks

    @classmethod
    def create(cls, opt: Config) -> "Run":
        """A new folder with the resolved config.yaml; the visdom page shows the run under `opt.env`."""
        folder = _new_folder(Path(opt.checkpoint_dir), f"{opt.model}_{opt.dataset}_{time.strftime('%m%d_%H%M%S')}")
        with files.whole(folder / "config.yaml") as file:
            yaml.safe_dump(opt.model_dump(), file, sort_keys=False, allow_unicode=True)
        run = cls(folder, [Jsonl(folder / "metrics.jsonl"), Log(folder / "log.txt")])
        if opt.vis_port:
            run.sinks.append(Visdom(Visualizer(env=opt.env, port=opt.vis_port, warn=run.say)))
        return run

    def record(self, kind: str, **figures) -> None:
        for sink in self.sinks:
            sink.record({"kind": kind, **figures, "time": round(time.time(), 3)})

    def picture(self, name: str, image: np.ndarray, epoch: int) -> None:
        """Keeps an (H, W, 3) uint8 picture as samples/<name>_<epoch>.png and shows it."""
        path = self.folder / "samples" / f"{name}_{epoch:03d}.png"
        path.parent.mkdir(exist_ok=True)
        with files.whole(path, "wb") as file:
            Image.fromarray(image).save(file, format="png")
        for sink in self.sinks:
            sink.picture(name, image)

    def say(self, line: str) -> None:
        """A line on the terminal, above the progress bar, and in every sink that takes text."""
        with suppress(BrokenPipeError):  # `train | head`: nobody reads on, the training goes on
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        for sink in self.sinks:
            sink.text(line)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()


def _new_folder(parent: Path, name: str) -> Path:
    """Makes `parent/name`, or name_2, name_3, ... where runs started within the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
