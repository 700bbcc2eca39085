"""From options to what the loop needs: net, task, loaders."""

from dataclasses import dataclass
from pathlib import Path

import torch

import models
from config import Config
from data.image_data import ImageData, Items
from data.loaders import Loader
from data.transforms import Preprocess
from engine.classify import Classify
from engine.device import Device, pick
from utils import checkpoint


@dataclass
class Loaders:
    train: Loader
    val: Loader

    def __enter__(self) -> "Loaders":
        return self

    def __exit__(self, *exception) -> None:
        self.train.close()
        self.val.close()

    def __str__(self) -> str:
        return f"{len(self.train.items)} training and {len(self.val.items)} validation images"


def training(
    opt: Config, dataset: ImageData, start_from: Path | None = None, past: dict | None = None
) -> tuple[Classify, Loaders, dict]:
    """All that a training needs: the task, its images, and what its checkpoints say of themselves.

    Args:
        start_from: a file of weights to start from; with opt.pretrained its head may have other classes.
        past: the content of the checkpoint to go on from.
    Raises:
        UsageError: the model cannot take such images, or the weights do not fit it.
    """
    device, num_classes = pick(opt), len(dataset.classes)
    models.check_input(opt.model, num_classes, opt.image_size, opt.batch_size)
    torch.manual_seed(opt.seed)
    weights = start_from if opt.pretrained else None
    net = models.build(opt.model, num_classes, opt.image_size, opt.pretrained and not past, weights)
    if start_from and not opt.pretrained:
        net.load(start_from)
    preprocess = Preprocess(opt.image_size, opt.min_crop)
    train_items, val_items = dataset.split(opt.val_fraction, opt.seed)
    train = train_loader(opt, train_items, preprocess, device)
    task = Classify(net, dataset.classes, preprocess, device, opt, learn=True)
    if past:
        checkpoint.load_net(net, past, "the saved run")
        task.load_state_dict(past)
    about = {
        "model": net.model_name,
        "num_classes": num_classes,
        "classes": dataset.classes,
        "images": {
            "train": len(train_items),
            "val": len(val_items),
            "train_files": dataset.fingerprint(train_items),
            "val_files": dataset.fingerprint(val_items),
        },
        "preprocess": preprocess.state_dict(),
        "machine": device.about(),
        "config": opt.model_dump(),
    }
    return task, Loaders(train, val_loader(opt, val_items, task)), about


def judge(opt: Config, content: dict) -> Classify:
    """The task of a checkpoint's `content`, ready to evaluate and predict."""
    preprocess = Preprocess(**content["preprocess"])
    net = models.build(content["model"], content["num_classes"], preprocess.image_size)
    checkpoint.load_net(net, content, opt.load_path)
    return Classify(net, content["classes"], preprocess, pick(opt), opt, learn=False)


def train_loader(opt: Config, items: Items, preprocess: Preprocess, device: Device) -> Loader:
    """Training images, shuffled and augmented."""
    return _loader(opt, items, preprocess, device, seed=opt.seed, augment=True, replace_bad=opt.on_bad_image == "skip")


def val_loader(opt: Config, items: Items, task: Classify) -> Loader:
    """Validation images, always in the same shuffled order: the batches, and so the figures, never change."""
    return _loader(opt, items, task.preprocess, task.device, seed=opt.seed, replace_bad=opt.on_bad_image == "skip")


def test_loader(opt: Config, paths: list[Path], task: Classify) -> Loader:
    """Images without labels (-1), in the order given."""
    return _loader(opt, [(path, -1) for path in paths], task.preprocess, task.device)


def _loader(opt: Config, items: Items, preprocess: Preprocess, device: Device, **how) -> Loader:
    workers, pin = device.workers(opt.num_workers), device.device.type == "cuda"
    return Loader(items, preprocess, opt.batch_size, workers, pin=pin, timeout=opt.data_timeout, **how)
