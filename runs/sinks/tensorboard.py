"""The run for TensorBoard, in its folder's tensorboard/: `tensorboard --logdir=checkpoints` shows all runs."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from runs.history import History, numbers
from runs.sinks import Sink
from utils.errors import UsageError
from utils.text import one_line

FOLDER = "tensorboard"
MAX_REASON = 200  # characters of why there is no graph
SAMPLED = 50_000  # weights of a tensor of which a histogram is made: every n-th
FILES = "events.out.tfevents.*"
LEARNING = ("experiment", "data", "augmentation", "training", "optimization", "classification", "gan")  # groups


class TensorBoard(Sink):
    """Scalars in train/ and val/, so that both lines of a metric share a plot; pictures, histograms and the graph.

    The step is the optimizer's everywhere, also of epochs. When a run is resumed, the scalars are written anew from the
    record; of pictures and histograms those of later steps are void, by TensorBoard's purge step.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.folder, self.warn = folder / FOLDER, warn
        self.writers: dict[str, Any] = {}
        self.begun: dict[str, Any] = {}
        self.epochs: list[dict[str, Any]] = []
        self.started, self.step = False, 0
        self.purge: int | None = None  # the first step that is void in files of before
        self.epoch_ended = self.graphed = False
        self.hook: Any = None
        self.example: Any = None  # an image batch of one, as the net saw it

    @classmethod
    def create(cls, folder: Path, opt: Config, warn: Callable[[str], None]) -> "TensorBoard | None":
        return cls(folder, warn) if opt.tensorboard else None

    def replay(self, events: list[dict[str, Any]]) -> None:
        for name in ("train", "val", "hparams"):
            for file in (self.folder / name).glob(FILES):
                file.unlink()
        self.started, self.purge = True, 0
        super().replay(events)
        self.purge = self.step + 1 if self.step else 0  # the first picture is of step 0
        self.epoch_ended = False

    def log_event(self, event: dict[str, Any]) -> None:
        self.start()
        kind, values = event["kind"], numbers(event)
        self.epoch_ended = kind == "epoch"
        if "config" in event:
            self.begun = event
        if kind == "step":
            self.scalar("train", "learning rate", event.get("lr"), event)
            for name in [name for name in values if name not in ("lr", "step", "epoch", "time")]:
                self.scalar("train", f"by step/{name}", values[name], event)
        elif kind == "epoch":
            self.epochs.append(event)
            self.scalar("train", "images a second", event.get("rate"), event)
            for part, _, metric in [name.partition("_") for name in values if name.startswith(("train_", "val_"))]:
                self.scalar(part, metric, values[f"{part}_{metric}"], event)
        self.step = event.get("step", self.step)

    def log_image(self, name: str, image: np.ndarray) -> None:
        self.start()
        self.writer("").add_image(name, image, self.step, dataformats="HWC")

    def log_net(self, net: Any) -> None:
        """Histograms of the weights, and of the gradients of the last step, after each epoch; the graph, once."""
        if self.hook is None:
            self.hook = net.register_forward_pre_hook(self.see)
        if not self.epoch_ended:
            return
        self.epoch_ended = False
        for name, weight in net.named_parameters():
            self.histogram(f"weights/{name}", weight)
            if weight.grad is not None:
                self.histogram(f"gradients/{name}", weight.grad)
        if not self.graphed:
            self.graph(net)
        for writer in self.writers.values():
            writer.flush()  # a process that is killed keeps what its checkpoint has

    def see(self, net: Any, args: tuple[Any, ...]) -> None:
        """Keeps the first image that the net is given."""
        self.hook.remove()
        self.example = args[0][:1].detach().clone()

    def histogram(self, tag: str, weight: Any) -> None:
        values = weight.detach().flatten()
        values = values[:: max(len(values) // SAMPLED, 1)].float().cpu().numpy()
        if len(values) and np.isfinite(values).all():
            self.writer("").add_histogram(tag, values, self.step)

    def graph(self, net: Any) -> None:
        """The graph of the net; one that cannot be traced costs a line."""
        self.graphed = True
        if self.example is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.writer("").add_graph(net, self.example)
        except Exception as e:
            reason = one_line(f"{type(e).__name__}: {e}")[:MAX_REASON]
            self.warn(f"tensorboard: no graph of the net, which cannot be traced ({reason})")
        self.example = None

    def close(self) -> None:
        if self.epochs:
            self.hparams()
        for writer in self.writers.values():
            writer.close()

    def hparams(self) -> None:
        """The options that a result depends on, with the metrics of the best and of the last epoch."""
        from torch.utils.tensorboard.summary import hparams

        best = History(self.folder.parent, self.begun, self.epochs).best or self.epochs[-1]
        metrics = {
            f"{which}/{name.removeprefix('val_')}": (value, event)
            for which, event in (("best", best), ("last", self.epochs[-1]))
            for name, value in numbers(event).items()
            if name.startswith("val_")
        }
        options = {
            name: value if isinstance(value, (int, float, str, bool)) else str(value)
            for name, value in self.begun["config"].items()
            if name in Config.fields() and Config.group_of(name) in LEARNING and value is not None
        }
        for summary in hparams(options, {name: value for name, (value, _) in metrics.items()}):
            self.writer("hparams").file_writer.add_summary(summary)
        for name, (value, event) in metrics.items():
            self.scalar("hparams", name, value, event)

    def scalar(self, part: str, tag: str, value: float | None, event: dict[str, Any]) -> None:
        if value is not None and np.isfinite(value):
            self.writer(part).add_scalar(tag, value, event["step"], walltime=event.get("time"))

    def start(self) -> None:
        """Refuses to draw a run that is drawn already: of what a training wrote, not all can be drawn again."""
        if not self.started and any(self.folder.rglob(FILES)):
            raise UsageError(f"{self.folder} shows this run already: remove it to have it drawn again")
        self.started = True

    def writer(self, part: str) -> Any:
        """The writer of a sub-folder, opened on first use."""
        if part not in self.writers:
            from torch.utils.tensorboard import SummaryWriter

            purge = None if self.purge is None else 0 if part else self.purge
            self.writers[part] = SummaryWriter(str(self.folder / part), purge_step=purge)
        return self.writers[part]
