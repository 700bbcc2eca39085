"""The features of a layer for each image (book, 4.6), and a map of them in two dimensions."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

import data
from analysis import layers
from analysis.projection import project
from data.batch import UNREADABLE, Batch, collect_bad_images
from engine.device import oom_as_failure
from engine.setup import test_loader
from engine.tasks.base import Task
from engine.tasks.classify import ONE_VIEW
from runs import past
from runs.record import to_json
from utils import files, registry
from utils.errors import UsageError
from utils.progress import with_progress
from utils.text import csv_line

PLAIN = {"amp": "off", **ONE_VIEW}  # options of the run that would blur what a layer gives


@dataclass
class Features:
    """What was written.

    Attributes:
        values: (N, D) float32, mapped from its file. source: what they are, in words. folder: of the images.
        names, predicted, labels: of the rows; a label is "" where it is not known. bad: a line for each image without
            a row.
    """

    values: np.ndarray
    source: str
    folder: Path
    names: list[str]
    predicted: list[str]
    labels: list[str]
    bad: list[str]


def write_features(task: Task, found: list[tuple[str, Path]], labels: dict[Path, str]) -> Features:
    """Writes the features: as an array, .npy, with a .csv beside it that has the id and the class of each row; or all
    in one .csv. One batch is in memory at a time.

    Args:
        task: built with the options PLAIN.
        found: (name, path) of the images. labels: their classes, where they are known.

    Raises:
        UsageError: the net is no classifier, the layer does not give some numbers for each image, or an image cannot
            be read.
    """
    layers.check_classifier(task, "features")
    opt, source = task.opt, Source(task)
    name, image = found[0]
    written = Features(np.empty((0, 0)), source.words, image.parents[len(Path(name).parts) - 1], [], [], [], [])
    path, in_table = Path(opt.features_file), opt.features_file.lower().endswith(".csv")
    with (
        test_loader(opt, [path for _, path in found], task) as loader,
        oom_as_failure(opt, task.preprocess.image_size),
        tempfile.TemporaryFile() if in_table else files.atomic_write(path, "wb") as array,
        files.atomic_write(path if in_table else path.with_suffix(".csv")) as table,
    ):
        _write_head(array, len(found), source.size)
        batches = collect_bad_images(with_progress(loader, "computing", len(found)), written.bad)
        for batch, predicted, rows in source.rows(batches):
            good = (batch.labels != UNREADABLE).cpu()
            array.write(rows[good].numpy().astype("<f4").tobytes())
            written.predicted += [task.classes[k] for k in predicted[good].tolist()]
            chosen = [found[index] for index in batch.indices[good].tolist()]
            written.names += [name for name, _ in chosen]
            written.labels += [labels.get(image, "") for _, image in chosen]
        if not written.names:
            raise UsageError(f"no image can be read: {written.bad[0]}")
        array.seek(0)
        _write_head(array, len(written.names), source.size)
        if in_table:
            array.flush()
            shape, start = (len(written.names), source.size), array.tell()
            written.values = np.memmap(array, "<f4", "r", start, shape)
        _write_table(table, written, bool(labels))
    if not in_table:
        written.values = np.load(path, mmap_mode="r")
    return written


def _write_table(file: IO, written: Features, with_labels: bool) -> None:
    """A line for each row: id, class where it is known, and the numbers that the array beside it does not hold."""
    numbers = [f"f{number}" for number in range(written.values.shape[-1])]
    file.write(csv_line(["id", *(["class"] if with_labels else []), *numbers]))
    for row, (name, label) in enumerate(zip(written.names, written.labels, strict=True)):
        values = written.values[row].tolist() if numbers else []
        file.write(csv_line([name, *([label] if with_labels else []), *(f"{value:.9g}" for value in values)]))


def write_map(features: Features, checkpoint: Path) -> Path | None:
    """Writes the features' map in two dimensions into the run folder of a checkpoint, where `report` finds it.

    Returns:
        The file; None where the checkpoint lies in no run folder, or in one that is read-only.
    """
    folder = checkpoint.parent
    if not (folder / "config.yaml").is_file() or not os.access(folder, os.W_OK):
        return None
    points, parts = project(features.values)
    record = {
        "source": features.source,
        "checkpoint": checkpoint.name,
        "images": str(features.folder),
        "parts": parts,
        "names": features.names,
        "labels": features.labels,
        "predicted": features.predicted,
        "points": [[float(f"{value:.5g}") for value in point] for point in points],
    }
    with files.atomic_write(folder / past.FEATURES) as file:
        file.write(to_json(record))
    return folder / past.FEATURES


def known_labels(name: str | None, folder: Path, classes: list[str]) -> dict[Path, str]:
    """The classes of the images in a folder, by absolute path, where the data set `name` reads them as `classes`."""
    if name is None or registry.is_external(name) or not folder.is_dir():
        return {}
    with suppress(UsageError):
        dataset = data.open(name, folder)
        if dataset.classes == classes:
            items = [*dataset.items, *dataset.val_items, *dataset.test_items]
            return {Path(os.path.abspath(path)): classes[label] for path, label in items}
    return {}


class Source:
    """Where features come from: the output of a layer, or what the head gets.

    Attributes:
        words: the same, as text. size: D. given: what it was in the last batch.
    """

    given: Any = None

    def __init__(self, task: Any) -> None:
        self.task, self.net, self.at_head = task, task.eval_model, task.opt.layer is None
        blank = torch.from_numpy(task.preprocess.blank())[None].repeat(2, 1, 1, 1)
        probe = Batch(blank, torch.full((2,), -1), torch.arange(2))
        self.name = task.opt.layer or self._find_head(probe)
        self.layer = layers.find(self.net, self.name)
        ((_, _, rows),) = self.rows([probe])
        self.size = rows.shape[1]
        self.words = f"the input of {self.name}" if self.at_head else f"the output of {self.name}"
        if (positions := self.given.numel() // rows.numel()) > 1:
            self.words += f", the mean over its {positions} positions"

    def rows(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
        """For each batch the predicted classes (N,) and the features (N, D) float32, both on the CPU."""

        def keep(name: str, layer: nn.Module, given: tuple, output: Any) -> None:
            self.given = given[0] if self.at_head else output
            if isinstance(self.given, torch.Tensor):
                self.given = self.given.clone()  # the next layer may work in place

        with layers.watched(self.net, keep, {self.name: self.layer}):
            for batch, logits in self.task.predict(batches):
                yield batch, logits.argmax(dim=1), self._mean(len(batch)).float().cpu()

    def _find_head(self, probe: Batch) -> str:
        """The last layer that has a matrix of weights."""
        found: list[str] = []

        def seen(name: str, layer: nn.Module, given: tuple, output: Any) -> None:
            if any(weight.ndim > 1 for weight in layer.parameters(recurse=False)):
                found.append(name)

        with layers.watched(self.net, seen):
            list(self.task.predict([probe]))
        if not found:
            raise UsageError(f"{self.task.opt.model} has no layer with a matrix of weights: name one by --layer=NAME")
        return found[-1]

    def _mean(self, count: int) -> torch.Tensor:
        """(N, D): maps (N, C, h, w) and tokens (N, T, C) are averaged over their positions."""
        given = self.given
        if not isinstance(given, torch.Tensor) or given.ndim not in (2, 3, 4) or len(given) != count:
            shape = tuple(given.shape[1:]) if isinstance(given, torch.Tensor) else type(given).__name__
            why = "is not used" if given is None else f"gives {shape}, and not some numbers for each image"
            raise UsageError(f"--layer={self.name} {why}: name another layer")
        if given.ndim == 4:
            return layers.channels_first(given).mean(dim=(2, 3))
        return given.mean(dim=1) if given.ndim == 3 else given


def _write_head(file: IO, count: int, size: int) -> None:
    """The head of a .npy file, as long for any smaller count."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, size)})
