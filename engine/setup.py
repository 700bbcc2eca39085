"""From options to what the loop needs: net, task, loaders."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from config import Config
from data.augment import Augment
from data.cache import CachedLoader, load_cached
from data.image_data import ImageData, Items
from data.loaders import EpochBatchSampler, EpochLoader, Loader
from data.sources import Sources
from data.stream import Stream
from data.transforms import Preprocess
from engine.device import Device, select_device
from engine.ensemble import Ensemble
from engine.linear_probe import fit_head
from engine.recipe import class_weights, resized_side
from engine.resume import ResumePoint
from engine.tasks.base import Task, task_class
from engine.tasks.classify import Classify
from models import heads
from models.exported import ExportedNet
from utils import checkpoints, registry, state_dicts, world
from utils.errors import UsageError
from utils.options import dashed
from utils.text import counted, printable


@dataclass
class Loaders:
    train: EpochLoader
    val: EpochLoader

    def __enter__(self) -> "Loaders":
        return self

    def __exit__(self, *exception: object) -> None:
        self.train.close()
        self.val.close()

    def __str__(self) -> str:
        return f"{len(self.train.items)} training and {counted(len(self.val.items), 'validation image')}"


def build_training(
    opt: Config, dataset: ImageData, start_from: Path | None = None, point: ResumePoint | None = None
) -> tuple[Task, Loaders, dict[str, Any]]:
    """All that a training needs: the task, its images, and what its checkpoints say of themselves.

    Args:
        start_from: a file of weights to start from; with opt.pretrained its head may have other classes.
        point: where a run is resumed.

    Raises:
        UsageError: the model cannot take such images, cannot be built again from what a checkpoint says, or the weights
            do not fit it.
    """
    device, resumed = select_device(opt), point.checkpoint if point else None
    torch.manual_seed(opt.seed)
    pretrained = opt.pretrained and not resumed
    with world.one_a_machine_first() if pretrained else nullcontext():  # they may have to be downloaded
        net = build_net(opt, dataset, start_from, pretrained)
    preprocess = make_preprocess(opt, dataset)
    train_items, val_items = dataset.split(opt.val_fraction, opt.seed)
    train = train_loader(opt, dataset, train_items, preprocess, device)
    init_from_data = getattr(net, "init_from_data", None)
    if init_from_data and not (resumed or start_from or opt.pretrained):
        with train.batch_sampler.whole():
            init_from_data(lambda: preprocess.normalize(next(iter(train.set_epoch(0))).images))
    kind = task_class(opt.model, net)
    if world.now.size > 1 and not kind.several_processes:
        raise UsageError(
            f"the task {kind.__name__} does not say that its step is right in several processes (several_processes): "
            "train it with one process; docs/extending.md shows what it takes"
        )
    task = kind(net, dataset.classes, preprocess, device, opt, train_items)
    registry.find(opt.monitor or task.monitor, task.metric_modes(), "metric")
    if isinstance(task, Classify) and opt.linear_probe and not resumed:
        with _loader(opt, dataset, train_items, preprocess, device) as images:
            print(fit_head(task, images))
    if point and resumed:
        state_dicts.load_net(net, resumed, point.path or "the saved run", opt.model)
        try:
            task.load_state_dict({"net": resumed["net"], **resumed["task"]})
        except UsageError as e:
            raise UsageError(
                f"{point.path} does not fit this training: {e}; remove it to resume from the checkpoint before, or "
                f"start anew from its weights with --load-path={point.path}"
            ) from e
    metadata = {
        "model": opt.model,
        "model_args": opt.model_arguments,
        "task": type(task).__name__,
        "num_classes": len(dataset.classes),
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
    _check_same_files(dataset, metadata["images"], {"train": train_items, "val": val_items})
    return task, Loaders(train, val_loader(opt, dataset, val_items, task)), metadata


def _check_same_files(dataset: ImageData, images: dict[str, Any], parts: dict[str, Items]) -> None:
    """Refuses a machine whose images are others than those of process 0.

    Raises:
        UsageError: names the process and the first image that differs, in all processes.
    """
    everyone = world.objects_from_each((images, str(dataset.root)))
    (first, root), keys = everyone[0], [f"{part}_files" for part in parts]
    for rank, (others, place) in enumerate(everyone):
        if key := next((key for key in keys if others[key] != first[key]), None):
            items = parts[key.removesuffix("_files")]
            prints = {item[0].relative_to(dataset.root).as_posix(): dataset.fingerprint([item]) for item in items}
            of_first, of_rank = (some for at, some in enumerate(world.objects_from_each(prints)) if at in (0, rank))
            names = sorted(of_first.keys() | of_rank.keys())
            name = next((name for name in names if of_first.get(name) != of_rank.get(name)), names[0])
            how = "is only there" if name not in of_first else "is missing" if name not in of_rank else "differs"
            raise UsageError(
                f"{world.now.name(rank)} has other {'training' if key == 'train_files' else 'validation'} images in "
                f"{place} than process 0 in {root}: {printable(name)} {how}; give all machines the same files"
            )


def build_net(opt: Config, dataset: ImageData, start_from: Path | None, pretrained: bool) -> nn.Module:
    """The net for a data set, checked before the first step: its input, its output, and that it can be built again."""
    num_classes, size, channels = len(dataset.classes), opt.image_size, dataset.channels
    arguments = opt.model_arguments
    shown = resized_side(size) if opt.progressive_resizing else size
    models.check_input(opt.model, num_classes, size, opt.batch_size, channels, shown, arguments)
    weights = start_from if opt.pretrained else None
    net = models.build(opt.model, num_classes, size, channels, arguments, pretrained, weights, dataset.classes)
    models.check_rebuild(net, opt.model, num_classes, size, channels, arguments)
    if start_from and not opt.pretrained:
        checkpoint = checkpoints.read(start_from)
        metadata = checkpoint["metadata"]
        if state_dicts.same_name(metadata.get("model", opt.model), opt.model, net):
            find_head = partial(heads.entries, net, opt.model, size, channels, arguments)
            theirs, ours, state = metadata.get("classes"), dataset.classes, checkpoint["net"]
            checkpoint["net"], _ = heads.adapted(state, find_head, theirs, ours, net, start_from, renew=False)
        state_dicts.load_net(net, checkpoint, start_from, opt.model)
    return net


def make_preprocess(opt: Config, dataset: ImageData) -> Preprocess:
    """What images go through: the data set's mean and deviation, or those that the model's weights were made for."""
    own = models.preprocessing(opt.model)
    values: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std}
    if len(own.get("mean", ())) == dataset.channels:
        values |= {name: own[name] for name in ("mean", "std")}
    values |= {name: own[name] for name in ("interpolation", "crop_pct") if name in own}
    return Preprocess(opt.image_size, opt.min_crop, **values)


def load_task(opt: Config, checkpoint: dict[str, Any]) -> Task:
    """The task of a checkpoint, ready to evaluate and predict; of several an ensemble."""
    if others := checkpoint.get("others"):
        all_parts = {opt.load_path: checkpoint | {"others": {}}, **others}
        members = []
        for path, part in all_parts.items():
            own = {"load_path": path, "model": part["metadata"]["model"]}
            members.append(load_task(opt.model_copy(update=own), part))
        return Ensemble(members, [str(path) for path in all_parts])
    metadata = checkpoint["metadata"]
    preprocess = Preprocess(**metadata["preprocess"])
    if "texts" in checkpoint:
        path = Path(str(opt.load_path))
        file: Any = ExportedNet(path, path.suffix, checkpoint["texts"])
        return Classify(file, metadata["classes"], preprocess, select_device(opt), opt)
    channels, arguments = len(preprocess.mean), metadata.get("model_args", opt.model_arguments)
    net = models.build(opt.model, metadata["num_classes"], preprocess.image_size, channels, arguments)
    state_dicts.load_net(net, checkpoint, opt.load_path, opt.model)
    return task_class(opt.model, net)(net, metadata["classes"], preprocess, select_device(opt), opt)


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
    augment = Augment(opt.seed, len(items), opt.flip, opt.shift, opt.cutout, fill, opt.rotate, opt.noise)
    weights = class_weights(items)[[label for _, label in items]].tolist() if opt.balance == "sampler" else None
    return _loader(opt, dataset, items, preprocess, device, augment, weights)


def val_loader(opt: Config, dataset: ImageData, items: Items, task: Task) -> EpochLoader:
    """Validation images, always in the same shuffled order: the batches, and so the metrics, never change."""
    return _loader(opt, dataset, items, task.preprocess, task.device)


def test_loader(opt: Config, paths: list[Path], task: Task) -> Loader:
    """Images without labels (-1), in the order given; an unreadable one keeps its place, unless it ends the work."""
    items, on_bad = [(path, -1) for path in paths], "fail" if opt.on_bad_image == "fail" else "blank"
    batches = EpochBatchSampler(len(items), opt.batch_size)
    return Loader(items, task.preprocess, batches, on_bad=on_bad, **_reading(opt, task.device))


def stream_loader(opt: Config, sources: Sources, task: Task) -> Stream:
    """Images without labels, of which there may be any number, in the order in which they come."""
    reading = _reading(opt, task.device) | ({"timeout": 0} if sources.may_wait else {})
    reading |= {"num_workers": 0} if sources.watch else {}  # worker processes are asked for images in advance
    return Stream(sources, task.preprocess, opt.batch_size, **reading)


def _loader(
    opt: Config,
    dataset: ImageData,
    items: Items,
    preprocess: Preprocess,
    device: Device,
    augment: Augment | None = None,
    sample_weights: list[float] | None = None,
) -> EpochLoader:
    accumulate = opt.accumulate if augment else 1
    batches = EpochBatchSampler(len(items), opt.batch_size, opt.seed, sample_weights, accumulate)
    with world.one_a_machine_first() if opt.cache == "disk" else nullcontext():
        cached = load_cached(dataset, items, preprocess, opt.cache, opt.on_bad_image, crops=augment is not None)
    if cached:
        images, bad = cached
        images = device.hold(images) if images.shape[1] == opt.image_size else images  # to be cropped on the CPU
        return CachedLoader(items, images, preprocess, batches, augment, bad)
    reading = _reading(opt, device)
    return Loader(items, preprocess, batches, augment=augment, on_bad=opt.on_bad_image, dataset=dataset, **reading)


def _reading(opt: Config, device: Device) -> dict[str, Any]:
    workers, pin = device.workers(opt.num_workers), device.device.type == "cuda"
    return {"num_workers": workers, "pin": pin, "timeout": opt.data_timeout}
