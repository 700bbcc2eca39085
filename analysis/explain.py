"""Heat maps of images as pictures: each image beside what speaks for its likeliest classes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from analysis import gradcam, layers
from data.batch import UNREADABLE, Batch
from engine.device import oom_as_failure
from engine.setup import test_loader
from engine.tasks.base import Task
from utils import files, pictures
from utils.errors import UsageError
from utils.progress import with_progress
from utils.text import printable

SHOWN = 2  # classes
SIDE, STRIP, GAP = 224, 16, 4  # pixels: of an image at least, of the text above it, between two
LETTER = 7  # pixels
Row = tuple[str, str, float, str]


def explain_images(task: Task, found: list[tuple[str, Path]]) -> list[Row]:
    """Writes a picture for each image, and prints a line; an image that cannot be read has none.

    Args:
        found: (name, path) of the images.

    Returns:
        For each image (its path, predicted class, its probability, the picture).

    Raises:
        UsageError: the net is no classifier, the layer gives no map, or no image can be read.
    """
    layers.check_classifier(task, "explain")
    if task.opt.layer:
        layers.find(task.net, task.opt.layer)
    rows, bad = list[Row](), list[str]()
    opt = task.opt.model_copy(update={"on_bad_image": "skip"})
    targets = [Path(opt.heatmap_folder, name) for name in picture_names([name for name, _ in found])]
    with (
        test_loader(opt, [path for _, path in found], task) as loader,
        oom_as_failure(opt, task.preprocess.image_size),
    ):
        for batch, looks in _looks(task, with_progress(loader, "explaining", len(found))):
            for line in batch.bad:
                tqdm.write(f"no picture: {printable(line)}")
            bad += batch.bad
            for index, look in zip(batch.indices.tolist(), looks, strict=True):
                rows.append(look.write(str(found[index][1]), found[index][0], targets[index]))
    if not rows:
        raise UsageError(f"no image can be read: {bad[0]}")
    return rows


@dataclass
class Look:
    """What a net says of an image, and why.

    Attributes:
        image: (S, S, C) uint8. maps: (k, h, w) of the k likeliest classes, in [0, 1].
        classes, odds: of them. layer: the maps are its.
    """

    image: np.ndarray
    maps: np.ndarray
    classes: list[str]
    odds: list[float]
    layer: str

    def write(self, path: str, name: str, target: Path) -> Row:
        """Writes the picture, prints the line, and returns the row."""
        with files.disk_errors_as_failure(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        pictures.write(target, self.picture(printable(Path(name).name)))
        size, first = f"{self.maps.shape[1]} x {self.maps.shape[2]}", printable(self.classes[0])
        looked = f"looked at {self.layer} ({size})"
        if not self.maps[0].any():
            looked = f"the map of {self.layer} ({size}) is blank: no region speaks for {first}"
        tqdm.write(f"{printable(name)}: {first} {self.odds[0]:.1%}, {looked}; {printable(target)}")
        return path, self.classes[0], self.odds[0], str(target)

    def picture(self, title: str) -> np.ndarray:
        """The image, and beside it each heat map over it, each under its title: (H, W, 3) uint8."""
        times = -(-SIDE // len(self.image))
        large = self.image.repeat(times, axis=0).repeat(times, axis=1)
        panels = [np.repeat(large, 3 // large.shape[2], axis=2)]
        panels += [gradcam.overlay(large, heat) for heat in self.maps]
        blank = ["" if heat.any() else ", blank" for heat in self.maps]
        texts = [f"{p:.1%}{nothing}" for p, nothing in zip(self.odds, blank, strict=True)]
        side = len(large)
        sheet = Image.new("RGB", (len(panels) * (side + GAP) - GAP, side + STRIP), "white")
        draw = ImageDraw.Draw(sheet)
        room = side // LETTER
        names = [title[:room], *(f"{c[: room - len(t) - 1]} {t}" for c, t in zip(self.classes, texts, strict=True))]
        for number, (panel, text) in enumerate(zip(panels, names, strict=True)):
            sheet.paste(Image.fromarray(np.ascontiguousarray(panel)), (number * (side + GAP), STRIP))
            draw.text((number * (side + GAP) + 2, 2), printable(text), fill="black")
        return np.asarray(sheet)


def _looks(task: Task, batches: Iterable[Batch]) -> Iterable[tuple[Batch, list[Look]]]:
    """For each batch its readable images, without the others, and what the net says of them."""
    layer = task.opt.layer
    for batch in batches:
        good = batch.labels != UNREADABLE
        images = batch.images[good]
        kept = Batch(images, batch.labels[good], batch.indices[good], batch.bad)
        looks = list[Look]()
        if len(images):
            layer = layer or layers.last_map(task, images[:1])
            done = gradcam.forward(task, images, layer)
            odds, order = done.logits.detach().double().softmax(dim=1).topk(min(SHOWN, len(task.classes)))
            maps = np.stack([gradcam.scaled(done.maps(classes)) for classes in order.T], axis=1)
            for image, heat, classes, p in zip(images.numpy(), maps, order.tolist(), odds.tolist(), strict=True):
                looks.append(Look(image, heat, [task.classes[k] for k in classes], p, layer))
        yield kept, looks


def picture_names(names: list[str]) -> list[str]:
    """The PNG of each image, in the same sub-folder: `a/1.png` of `a/1.jpg`; `1.jpg.png` where two would be one."""
    short = [name[: -len(Path(name).suffix) or None] + ".png" for name in names]
    twice = max(Counter(map(str.casefold, short)).values()) > 1
    return [name + ".png" for name in names] if twice else short
