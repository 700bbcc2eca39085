"""Compares a file with the net that it was made from, on images of the run."""

import random
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from data.image_data import ImageData, Items
from data.loaders import EpochLoader
from engine import saved
from engine.device import select_device
from engine.setup import load_task, val_loader
from engine.tasks.base import Task
from engine.tasks.classify import ONE_VIEW
from engine.tasks.gan import Gan
from engine.validation import validate
from export import parity
from models.exported import ExportedNet
from utils.errors import UsageError
from utils.options import dashed
from utils.text import counted

MOST = max(parity.SIZES)  # images at once


class Comparison:
    """Of one run.

    Args:
        opt: the options by which the file answers: on the CPU, in float32. asked: those of `val`. task: of `opt`.

    Attributes:
        lines: what was found. told: the same for Python: the largest differences, and accuracies.
    """

    def __init__(self, opt: Config, asked: Config, checkpoint: dict[str, Any], task: Task) -> None:
        self.opt, self.asked, self.checkpoint, self.task = opt, asked, checkpoint, task
        self.lines: list[str] = []
        self.told: dict[str, Any] = {}
        self.sample: parity.Sample | None = None

    def draw(self) -> None:
        """Takes images of the validation part, and asks the net; a generator needs none.

        Raises:
            UsageError: they are not at hand.
        """
        if not isinstance(self.task, Gan):
            with self.loader(self.images("val", parity.IMAGES), MOST) as loader:
                self.sample = parity.Sample.of(self.task, loader)

    def check(self, name: str, data: bytes, texts: dict[str, str]) -> str:
        """Asks the file as well; returns what was found in a line.

        Raises:
            RunError: it answers otherwise.
        """
        net: Any = ExportedNet(data, Path(name).suffix, texts)
        if self.sample is None:
            found = parity.compare_generators(self.task, net.run, self.opt.pixels).checked(name)
        else:
            own = parity.with_net(self.task, net)
            found = parity.compare(self.sample, own, log_odds=self.opt.pixels).checked(name)
        self.told |= {"logits": found.logits, "probabilities": found.probabilities, "changed": found.changed}
        line = f"the same answers as the net, in batches of {', '.join(map(str, sorted(parity.SIZES)))}: {found}"
        self.lines.append(line)
        if self.sample and name.endswith(".onnx"):
            count, others = parity.reading(self.sample, self.dataset, self.task)
            told = f"predict.py reads {count - len(others)} of {counted(count, 'image file')} as the training did"
            self.lines += ["; ".join([told, *others[:3]])] if count else []
        if self.sample:
            self._as_val(self.sample)
        return line

    def _as_val(self, sample: parity.Sample) -> None:
        """How what `val` does otherwise changes the answers: its number format, and mirror images."""
        if several := [f"--{dashed(name)}" for name in ONE_VIEW if getattr(self.asked, name)]:
            flags = ", ".join(several)
            self.lines.append(f"the file answers for an image as it is, val for several views of it ({flags})")
        device = select_device(self.asked)
        if device.amp is not None:
            task = load_task(self.asked.model_copy(update=ONE_VIEW), self.checkpoint)
            found = parity.compare(sample, task, sizes={MOST: parity.SIZES[MOST]})
            numbers, of = device.metadata()["numbers"], f"{found.changed} of {found.images}"
            self.lines.append(
                f"val computes in {numbers} here, and the file in fp32: probabilities differ by up to "
                f"{found.probabilities:.1e}, classes changed: {of}"
            )

    @cached_property
    def dataset(self) -> ImageData:
        """That of the run.

        Raises:
            UsageError: it cannot be opened.
        """
        try:
            return saved.open_dataset(self.opt, self.checkpoint)
        except UsageError as e:
            raise UsageError(f"no images to compare with ({e}): give --train-data-root=DIR, or --no-parity") from e

    def images(self, split: str, count: int | None = None) -> Items:
        """So many images of a part, drawn by the seed; all where `count` is None."""
        items = self.dataset.part(split, self.opt.val_fraction, self.opt.seed)
        return items if count is None or count >= len(items) else random.Random(self.opt.seed).sample(items, count)

    def loader(self, items: Items, size: int) -> EpochLoader:
        return val_loader(self.opt.model_copy(update={"batch_size": size}), self.dataset, items, self.task)

    def inputs(self, count: int) -> Iterator[np.ndarray]:
        """Batches of training images, as the file takes them."""
        with self.loader(self.images("train", count), MOST) as loader:
            for batch in loader.set_epoch(0):
                images = batch.images if self.opt.pixels else self.task.preprocess.normalize(batch.images)
                yield images.contiguous().numpy()

    def cost(self, name: str, small: bytes, data: bytes, texts: dict[str, str]) -> str:
        """What a smaller file in place of `data` costs on the whole validation part, in a line."""
        items = self.images("val")
        scores = []
        for model in (data, small):
            task = parity.with_net(self.task, ExportedNet(model, ".onnx", texts))
            with self.loader(items, self.opt.batch_size) as loader:
                scores.append(validate(task, loader)[0]["accuracy"])
        self.told |= {"accuracy": scores[0], "accuracy_int8": scores[1]}
        line = f"{name}, {len(small) / 2**20:.1f} MiB: accuracy {scores[1]:.4f} in place of {scores[0]:.4f} "
        line += f"({scores[1] - scores[0]:+.4f}) on {counted(len(items), 'validation image')}"
        self.lines.append(line)
        return line
