"""What the net of a run's best epoch says of each validation image."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from analysis import near_duplicates, wrong_labels
from config import Config
from data.cache import CachedLoader, resized
from data.image_data import ImageData, Items
from data.loaders import EpochLoader
from engine import saved
from engine.device import oom_as_failure
from engine.setup import load_task, val_loader
from engine.tasks.base import NonFiniteError, Task
from runs.history import History
from utils.errors import UsageError
from utils.progress import with_progress
from utils.text import counted, printable


@dataclass
class Judged:
    """The validation images, N of them, in the order in which `val` reads them, and what the net says of each.

    Attributes:
        items: (path, label) of each. train_items: those that the net has learned from.
        logits: (N, K) float32, on the CPU.
        notes: lines on what is not as it was in the training: other files, images that cannot be read.
    """

    task: Task
    dataset: ImageData
    items: Items
    train_items: Items
    logits: torch.Tensor
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def classes(self) -> list[str]:
        return self.task.classes

    @property
    def paths(self) -> list[Path]:
        return [path for path, _ in self.items]

    @cached_property
    def labels(self) -> torch.Tensor:
        """(N,) int64 in [0, K)."""
        return torch.tensor([label for _, label in self.items])

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, K) float64."""
        return self.logits.double().softmax(dim=1).numpy()

    @cached_property
    def losses(self) -> np.ndarray:
        """(N,) float64: the cross entropy of each, in nats."""
        return torch.nn.functional.cross_entropy(self.logits.double(), self.labels, reduction="none").numpy()

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) int64: the most probable class of each."""
        return self.logits.argmax(dim=1).numpy()

    @cached_property
    def wrong(self) -> np.ndarray:
        """(N,) bool: whether another class is predicted."""
        return self.predicted != self.labels.numpy()

    @property
    def accuracy(self) -> float:
        return 1 - float(self.wrong.mean())

    def name(self, path: Path) -> str:
        """The path below the root of the data set."""
        return printable(path.relative_to(self.dataset.root).as_posix())

    @cached_property
    def suspects(self) -> list[wrong_labels.Suspect]:
        """The images whose label is probably wrong, the most suspicious first."""
        return wrong_labels.find(self.probabilities, self.labels.numpy())

    @cached_property
    def duplicates(self) -> near_duplicates.Duplicates:
        """The images that are copies of one in train_items; the first call reads both parts."""
        return near_duplicates.find(self.dataset, self.items, self.train_items)

    def worst(self, count: int) -> list[int]:
        """Positions of up to `count` images that are predicted as another class, those of the highest loss first."""
        return sorted(self.wrong.nonzero()[0].tolist(), key=lambda i: -self.losses[i])[:count]

    def images(self, items: Items) -> np.ndarray:
        """(n, S, S, C) uint8: images of either part as the net gets them, read again.

        Raises:
            UsageError: one cannot be read any more.
        """
        preprocess = self.task.preprocess
        if (pixels := self.dataset.pixels(items)) is not None:
            return resized(torch.from_numpy(pixels), preprocess).numpy()
        return np.stack([preprocess.eval(self.dataset.load(path)) for path, _ in items])

    def pixels(self, index: int) -> np.ndarray:
        """(S, S, 3) uint8: a validation image as the net gets it; a grey one in three equal channels."""
        image = self.images([self.items[index]])[0]
        return np.broadcast_to(image, (*image.shape[:2], 3))


def judge(history: History, opt: Config) -> Judged:
    """Evaluates the best epoch (the last where there is none) on the validation part that its training kept aside.

    Args:
        opt: the options of the command: of them those that were typed count, as they do for `val`.

    Raises:
        UsageError: checkpoint or images are missing, they do not fit, or the net is no classifier.
    """
    flags = {name: getattr(opt, name) for name in Config.fields() if opt.typed(name)}
    flags = {name: value for name, value in flags.items() if "val" in Config.commands_of(name)}
    opt, checkpoint = saved.load_saved("val", flags | {"load_path": str(history.folder)})
    task = load_task(opt, checkpoint)
    if type(task).predict is Task.predict:
        raise UsageError(f"{opt.model} is no classifier: its task is {type(task).__name__}")
    dataset, metadata = saved.open_dataset(opt, checkpoint), checkpoint["metadata"]
    train_items, items = dataset.split(opt.val_fraction, opt.seed)
    notes = []
    if metadata["images"].get("val_files", fingerprint := dataset.fingerprint(items)) != fingerprint:
        notes = [
            f"{dataset.root}: its files are not those of the training: some of these images may have been trained on"
        ]
    with val_loader(opt, dataset, items, task) as loader:
        order, logits, bad = _predictions(task, loader)
    notes += [f"left out: {line}" for line in bad]
    return Judged(task, dataset, [items[index] for index in order], train_items, logits, notes)


def _predictions(task: Task, loader: EpochLoader) -> tuple[list[int], torch.Tensor, list[str]]:
    """Returns (positions in the loader's items, logits (N, K), lines on those that cannot be read, left out here)."""
    found: dict[int, torch.Tensor] = {}
    bad: list[str] = []
    replaced = loader.bad if isinstance(loader, CachedLoader) else {}  # other loaders give the position of the other
    batches = with_progress(loader.set_epoch(0), "evaluating", len(loader.items))
    try:
        with oom_as_failure(task.opt, task.preprocess.image_size):
            for batch, logits in task.predict(batches):
                bad += batch.bad
                for index, row in zip(batch.indices.tolist(), logits, strict=True):
                    if index not in replaced:
                        found.setdefault(index, row)
    except NonFiniteError as e:
        raise UsageError(f"{task.opt.load_path}: {e}") from e
    if not found:
        raise UsageError(f"none of {counted(len(loader.items), 'validation image')} can be read")
    logits = torch.stack(list(found.values()))
    if logits.shape[1:] != (len(task.classes),):
        raise UsageError(f"{task.opt.model} gives {tuple(logits.shape[1:])} values for {len(task.classes)} classes")
    return list(found), logits, bad
