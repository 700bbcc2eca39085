"""How fast training is here: the plain tutorial loop, this program's epoch, the bare step; side by side."""

import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets.folder import default_loader

from config import Config
from data.image_data import ImageData
from data.loaders import Batch, EpochLoader
from engine.device import synchronize
from engine.loop import Trainer
from engine.setup import build_training, train_loader
from engine.tasks.base import Task
from engine.tasks.gan import latent_size
from runs.run import Run
from utils.text import counted

IMAGES, ROUNDS = 256, 5
LIMIT = 150  # seconds after which no round begins
Step = Callable[[torch.Tensor, torch.Tensor], None]


def compare(opt: Config, dataset: ImageData) -> dict[str, float]:
    """Prints images a second of the three, in turn, and the median ratios of up to ROUNDS; returns the ratios.

    Each has its own net of opt.model and its own optimizer, and is warmed up by one epoch that is not counted. A task
    that no tutorial loop is known for (TUTORIAL_STEPS) is compared with the bare step alone. With `--json` the lines go
    to stderr, and all figures as one JSON object to stdout.
    """
    say = partial(print, file=sys.stderr if opt.json else sys.stdout, flush=True)
    count = IMAGES * (50 if opt.image_size <= 64 else 1)  # small ones take less time
    every = max(len(dataset.items) // count, 1)
    dataset.items, dataset.val_items = dataset.items[::every][:count], dataset.val_items[:IMAGES]
    task, loaders, _ = build_training(opt, dataset)
    setting = f"batch {opt.batch_size}, {counted(len(dataset.items), 'image')} an epoch; {task.device}"
    say(f"{opt.model} at {opt.image_size}, {setting}")
    say(f"a warm-up and up to {ROUNDS} rounds; after {LIMIT} s none begins")
    loader = train_loader(opt, dataset, dataset.items, task.preprocess, task.device)
    with loader as train, tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, train, loaders.val, Run(Path(folder)), opt, {})
        rivals: dict[str, Callable[[], object]] = {}
        if step := TUTORIAL_STEPS.get(type(task).__name__):
            rivals["tutorial loop"] = tutorial_epoch(opt, dataset, task, step)
        rivals["this program"] = lambda: _epoch(trainer)
        rivals["bare step"] = bare_epoch(task, train)
        rates = race(rivals, len(train.items), task.device.device, say)
    ratios = {}
    for other in (name for name in rates if name != "this program"):
        pairs = zip(rates["this program"], rates[other], strict=True)
        ratios[other] = statistics.median(ours / theirs for ours, theirs in pairs)
        rounds = counted(len(rates[other]), "ratio")
        say(f"this program / {other}: {ratios[other]:.2f} (median of {rounds}, each within one round)")
    if opt.json:
        facts = {"model": opt.model, "image_size": opt.image_size, "batch_size": opt.batch_size}
        facts |= {"images": len(dataset.items), **task.device.metadata()}
        print(json.dumps(facts | {"images_per_second": rates, "ratios": ratios}))
    return ratios


def _epoch(trainer: Trainer) -> None:
    """One epoch's steps; each counts from the start."""
    trainer.state = type(trainer.state)()
    trainer.train_epoch()


def race(
    rivals: dict[str, Callable[[], object]], images: int, device: torch.device, say: Callable[..., None] = print
) -> dict[str, list[float]]:
    """Runs the rivals in turn, ROUNDS times after a warm-up, or once and until LIMIT is over.

    Returns:
        Images a second of each, round by round.
    """
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    start = time.perf_counter()
    for number in range(ROUNDS + 1):
        if number > 1 and time.perf_counter() - start > LIMIT:
            break
        for name, epoch in rivals.items():
            rates[name].append(images / _seconds(epoch, device))
        title = f"round {number}" if number else "warm-up"
        say(_row(title, {name: values[-1] for name, values in rates.items()}))
    rates = {name: values[1:] for name, values in rates.items()}
    say(_row("median", {name: statistics.median(values) for name, values in rates.items()}))
    return rates


def _row(title: str, rates: dict[str, float]) -> str:
    return f"{title:<8}" + "".join(f"  {name} {rate:.1f} img/s" for name, rate in rates.items())


def classify_step(net: Any, opt: Config) -> Step:
    """The step of (images, labels) that the usual tutorial writes for a classifier."""
    optimizer = torch.optim.Adam(net.parameters(), lr=opt.lr)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def gan_step(net: Any, opt: Config) -> Step:
    """The book's, for a GAN: real images, other generated ones for each net, three backward passes."""
    betas = (opt.beta1, 0.999)
    of_generator = torch.optim.Adam(net.generator.parameters(), opt.lr1, betas)
    of_discriminator = torch.optim.Adam(net.discriminator.parameters(), opt.lr2, betas)

    def loss(images: torch.Tensor, label: float) -> torch.Tensor:
        logits = net(images)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        noise = (torch.randn(len(images), latent_size(net), 1, 1, device=images.device) for _ in range(2))
        of_discriminator.zero_grad()
        loss(images, 1).backward()
        loss(net.generator(next(noise)).detach(), 0).backward()
        of_discriminator.step()
        of_generator.zero_grad()
        loss(net.generator(next(noise)), 1).backward()
        of_generator.step()

    return step


TUTORIAL_STEPS: dict[str, Callable[[nn.Module, Config], Step]] = {"Classify": classify_step, "Gan": gan_step}


def tutorial_epoch(
    opt: Config, dataset: ImageData, task: Task, make_step: Callable[[nn.Module, Config], Step]
) -> Callable[[], None]:
    """The loop of the usual tutorials: float32, PIL, Adam, torchvision's transforms, DataLoader with two workers."""
    device = task.device.device
    loader = DataLoader(TutorialImages(opt, dataset), batch_size=opt.batch_size, shuffle=True, num_workers=2)
    net = copy.deepcopy(task.net).to(memory_format=torch.contiguous_format).train()
    step = make_step(net, opt)

    def epoch() -> None:
        for x, y in loader:
            step(x.to(device), y.to(device))

    return epoch


class TutorialImages(Dataset):
    """The images as a tutorial reads them: PIL and torchvision's transforms, with torchvision's loader for files.

    Returns (float32 (C, S, S), normalized; label). Images of S x S that are held in memory are not resized.
    """

    def __init__(self, opt: Config, dataset: ImageData) -> None:
        self.dataset, self.mode, size = dataset, "L" if len(dataset.mean) == 1 else "RGB", opt.image_size
        steps: list[Any] = [transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)]
        held = dataset.pixels(dataset.items[:1])
        if held is None or held.shape[1:3] != (size, size):
            crops = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
            whole = [transforms.Resize(size), transforms.CenterCrop(size)]
            steps = (crops if (opt.min_crop or 1) < 1 else whole) + steps
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.dataset.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.dataset.items[index]
        source = self.dataset.load(path)
        image = default_loader(source) if isinstance(source, Path) else source
        return self.transform(image if image.mode == self.mode else image.convert(self.mode)), label


def bare_epoch(task: Task, loader: EpochLoader) -> Callable[[], None]:
    """The training step alone, on batches of the loader's sizes that lie in the device's memory."""
    size = task.preprocess.image_size
    sizes = [len(keys) for keys in loader.batch_sampler]
    images = torch.randint(0, 256, (max(sizes), size, size, len(task.preprocess.mean)), dtype=torch.uint8)
    labels = torch.arange(max(sizes)) % len(task.classes)
    batch = Batch(images, labels, labels).to(task.device.device)

    def epoch() -> None:
        for n in sizes:
            task.train_step(Batch(batch.images[:n], batch.labels[:n], batch.indices[:n]))

    return epoch


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start
