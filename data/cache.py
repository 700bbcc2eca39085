"""Data sets that are held whole as decoded squares: in memory, or in a file that is mapped into it."""

import hashlib
import json
import random
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from data.augment import Augment
from data.image_data import ImageData, Items
from data.loaders import Batch, EpochBatchSampler, EpochLoader, ImageDataset, cores
from data.transforms import Preprocess, random_crop
from utils import files
from utils.errors import RunError, UsageError
from utils.progress import in_threads

CACHE = Path("data/cache")
IN_MEMORY = 2**30  # bytes of images that are held in memory without being asked
AT_ONCE = 256  # images scaled before the next ones are


class CachedLoader(EpochLoader):
    """Batches of images that are held; no processes.

    Args:
        images: (N, T, T, C) uint8, in the order of `items`; on the device where they fit.
        preprocess: what is left to do: where T is above its size S, random crops are scaled to S.
        bad: {index: what could not be read in its place}.
    """

    def __init__(
        self,
        items: Items,
        images: torch.Tensor,
        preprocess: Preprocess,
        batches: EpochBatchSampler,
        augment: Augment | None = None,
        bad: dict[int, str] | None = None,
    ) -> None:
        self.items, self.images, self.preprocess, self.augment = items, images, preprocess, augment
        self.batch_sampler, self.bad = batches, bad or {}
        self.labels = torch.tensor([label for _, label in items])

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batch_sampler:
            epoch, indices = keys[0][0], torch.tensor([index for _, index in keys])
            images = self.images[indices.to(self.images.device)]
            if images.shape[1] != self.preprocess.image_size:
                images = torch.stack([self._crop(image, key) for image, key in zip(images, keys, strict=True)])
            if self.augment:
                images = self.augment(images, epoch, indices.tolist())
            bad = [self.bad[index] for index in indices.tolist() if index in self.bad] if self.bad else []
            yield Batch(images, self.labels[indices], indices, bad)

    def _crop(self, image: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
        """A random crop of (T, T, C) uint8 as (S, S, C)."""
        words, side = f"{self.augment.seed}/{key[0]}/{key[1]}", self.preprocess.image_size
        left, top, right, bottom = random_crop(image.shape[:2], self.preprocess.min_crop, random.Random(words))
        crop = image[top:bottom, left:right].permute(2, 0, 1)[None]
        return F.interpolate(crop, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def load_cached(
    dataset: ImageData, items: Items, preprocess: Preprocess, cache: str, replace_bad: bool, crops: bool
) -> tuple[torch.Tensor, dict[int, str]] | None:
    """The images of `items` as (N, T, T, C) uint8, and {index: what could not be read}; None to read them each epoch.

    Args:
        cache: auto holds what comes as arrays, and files of which each epoch sees the same square where all take
            little memory; disk keeps files decoded in CACHE; off reads files each epoch.
        crops: random crops are to be cut out of them. T is then so large that one of mean area is not enlarged.

    Raises:
        UsageError: an image cannot be read. RunError: the disk is full.
    """
    side, crops = preprocess.image_size, crops and preprocess.min_crop < 1
    if (pixels := dataset.pixels(items)) is not None:
        return resized(torch.from_numpy(pixels), side), {}
    if cache == "disk":
        side = round(side * (2 / (1 + preprocess.min_crop)) ** 0.5) if crops else side
        return on_disk(dataset, items, replace(preprocess, image_size=side), replace_bad)
    if cache == "off" or crops or len(items) * side * side * dataset.channels > IN_MEMORY:
        return None
    bad = {}
    return torch.from_numpy(np.concatenate(list(decoded(items, preprocess, replace_bad, bad)))), bad


def decoded(items: Items, preprocess: Preprocess, replace_bad: bool, bad: dict[int, str]) -> Iterator[np.ndarray]:
    """The squares of all images in parts of (n, S, S, C) uint8, read by threads, with a bar; fills `bad`."""
    images = ImageDataset(items, preprocess, seed=0, crop=False, replace_bad=replace_bad)
    done = 0
    for samples in in_threads(lambda index: images[0, index], range(len(items)), "reading", cores()):
        for sample in samples:
            if isinstance(sample, UsageError):
                raise sample
        bad |= {done + i: "; ".join(lines) for i, (*_, lines) in enumerate(samples) if lines}
        done += len(samples)
        yield np.stack([image for image, *_ in samples])


def on_disk(
    dataset: ImageData, items: Items, preprocess: Preprocess, replace_bad: bool
) -> tuple[torch.Tensor, dict[int, str]]:
    """The squares in a file of CACHE, mapped into memory; written where there is none of these very images.

    The file's name holds a hash of the source files' names, sizes and times, so a changed file makes another one.
    """
    side, channels = preprocess.image_size, len(preprocess.mean)
    stats = ((path.relative_to(dataset.root).as_posix(), path.stat()) for path, _ in items)
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    key = hashlib.sha256("\n".join([*lines, f"{channels} {replace_bad}"]).encode(errors="surrogateescape")).hexdigest()
    path = CACHE / f"{dataset.root.name}_{side}_{key[:16]}.npy"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        shape, bad = (len(items), side, side, channels), {}
        size, free = int(np.prod(shape)), shutil.disk_usage(CACHE).free
        if size > free:
            raise RunError(f"--cache=disk needs {size / 2**20:.0f} MiB in {CACHE}, and {free / 2**20:.0f} MiB are free")
        with files.atomic_write(path, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in decoded(items, preprocess, replace_bad, bad):
                file.write(part.data)
            with files.atomic_write(path.with_suffix(".json")) as notes:
                json.dump(bad, notes)
        print(f"{path}: {len(items)} images of {side}x{side}, {size / 2**20:.0f} MiB; it may be deleted at any time")
    bad = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be written to: nobody does
        return torch.from_numpy(np.load(path, mmap_mode="r")), {int(index): line for index, line in bad.items()}


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """(N, H, W, C) uint8 -> (N, side, side, C)."""
    if images.shape[1] == images.shape[2] == side:
        return images
    parts = (part.permute(0, 3, 1, 2) for part in images.split(AT_ONCE))
    scaled = [F.interpolate(part, (side, side), mode="bilinear", antialias=True) for part in parts]
    return torch.cat(scaled).permute(0, 2, 3, 1).contiguous()
