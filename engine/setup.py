"""From options to what the loop needs: net, task, loaders."""

from dataclasses import dataclass
from pathlib import Path

import torch

import models
from config import Config, dashed
from data.augment import Augment
from data.cache import CachedLoader, load_cached
from data.image_data import ImageData, Items
from data.loaders import EpochBatchSampler, EpochLoader, Loader
from data.transforms import Preprocess
from engine.device import Device, select_device
from engine.recipe import class_weights, resized_side
from engine.tasks import base as tasks
from engine.tasks.base import Task
from utils import checkpoints
from utils.errors import UsageError


@dataclass
class Loaders:
    train: EpochLoader
    val: EpochLoader

    def __enter__(self) -> "Loaders":
        return self

    def __exit__(self, *exception) -> None:
        self.train.close()
        self.val.close()

    def __str__(self) -> str:
        return f"{len(self.train.items)} training and {len(self.val.items)} validation images"


def training(
    opt: Config, dataset: ImageData, start_from: Path | None = None, past: dict | None = None
) -> tuple[Task, Loaders, dict]:
    """All that a training needs: the task, its images, and what its checkpoints say of themselves.

    Args:
        start_from: a file of weights to start from; with opt.pretrained its head may have other classes.
        past: the content of the checkpoint to go on from.
    Raises:
        UsageError: the model cannot take such images, or the weights do not fit it.
    """
    device, num_classes = select_device(opt), len(dataset.classes)
    shown = resized_side(opt.image_size) if opt.progressive_resizing else opt.image_size
    models.check_input(opt.model, num_classes, opt.image_size, opt.batch_size, dataset.channels, shown)
    torch.manual_seed(opt.seed)
    weights = start_from if opt.pretrained else None
    pretrained = opt.pretrained and not past
    net = models.build(opt.model, num_classes, opt.image_size, pretrained, weights, dataset.channels, **sizes(opt))
    if start_from and not opt.pretrained:
        net.load(start_from)
    preprocess = Preprocess(opt.image_size, opt.min_crop, dataset.mean, dataset.std)
    train_items, val_items = dataset.split(opt.val_fraction, opt.seed)
    train = train_loader(opt, dataset, train_items, preprocess, device)
    if not (past or start_from or pretrained):
        net.begin_with(lambda: preprocess.normalize(next(iter(train.set_epoch(0))).images))
    task = tasks.named(net.task)(net, dataset.classes, preprocess, device, opt, train_items)
    if past:
        checkpoints.load_net(net, past, "the saved run")
        task.load_state_dict(past)
    metadata = {
        "model": net.model_name,
        "num_classes": net.num_classes,
        "classes": dataset.classes,
        "images": {
            "train": len(train_items),
            "val": len(val_items),
            "train_files": dataset.fingerprint(train_items),
            "val_files": dataset.fingerprint(val_items),
        },
        "preprocess": preprocess.state_dict(),
        "machine": device.metadata(),
        "config": opt.model_dump(),
    }
    return task, Loaders(train, val_loader(opt, dataset, val_items, task)), metadata


def load_task(opt: Config, content: dict) -> Task:
    """The task of a checkpoint's `content`, ready to evaluate and predict."""
    preprocess = Preprocess(**content["preprocess"])
    channels = len(preprocess.mean)
    net = models.build(content["model"], content["num_classes"], preprocess.image_size, channels=channels, **sizes(opt))
    checkpoints.load_net(net, content, opt.load_path)
    return tasks.named(net.task)(net, content["classes"], preprocess, select_device(opt), opt)


def sizes(opt: Config) -> dict[str, int]:
    """What the options say of the net's own sizes."""
    return {name: value for name in ("nz", "ngf", "ndf") if (value := getattr(opt, name)) is not None}


def train_loader(opt: Config, dataset: ImageData, items: Items, preprocess: Preprocess, device: Device) -> EpochLoader:
    """Training images, shuffled and augmented.

    Raises:
        UsageError: a shift or a cutout larger than the images.
    """
    for name in ("shift", "cutout", "d_shift"):
        if getattr(opt, name) >= opt.image_size:
            raise UsageError(
                f"--{dashed(name)}={getattr(opt, name)} is too much for images of {opt.image_size} pixels a side"
            )
    fill = tuple(round(255 * mean) for mean in preprocess.mean)
    augment = Augment(opt.seed, len(items), opt.flip, opt.shift, opt.cutout, fill)
    shares = class_weights(items)[[label for _, label in items]].tolist() if opt.balance == "sampler" else None
    return _loader(opt, dataset, items, preprocess, device, augment, shares)


def val_loader(opt: Config, dataset: ImageData, items: Items, task: Task) -> EpochLoader:
    """Validation images, always in the same shuffled order: the batches, and so the figures, never change."""
    return _loader(opt, dataset, items, task.preprocess, task.device)


def test_loader(opt: Config, paths: list[Path], task: Task) -> Loader:
    """Images without labels (-1), in the order given."""
    items = [(path, -1) for path in paths]
    return Loader(items, task.preprocess, EpochBatchSampler(len(items), opt.batch_size), **_reading(opt, task.device))


def _loader(
    opt: Config,
    dataset: ImageData,
    items: Items,
    preprocess: Preprocess,
    device: Device,
    augment: Augment | None = None,
    shares: list[float] | None = None,
) -> EpochLoader:
    batches, skip = EpochBatchSampler(len(items), opt.batch_size, opt.seed, shares), opt.on_bad_image == "skip"
    held = load_cached(dataset, items, preprocess, opt.cache, skip, crops=augment is not None)
    if held:
        images, bad = held
        images = device.hold(images) if images.shape[1] == opt.image_size else images  # to be cropped on the CPU
        return CachedLoader(items, images, preprocess, batches, augment, bad)
    return Loader(items, preprocess, batches, augment=augment, replace_bad=skip, **_reading(opt, device))


def _reading(opt: Config, device: Device) -> dict:
    workers, pin = device.workers(opt.num_workers), device.device.type == "cuda"
    return {"num_workers": workers, "pin": pin, "timeout": opt.data_timeout}
