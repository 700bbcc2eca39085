"""Images that are decoded once and kept: in memory, or in a file that is mapped into memory."""

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

from data.augment import Augment
from data.batch import Sample
from data.image_data import ImageData, Items
from data.loaders import Batch, EpochBatchSampler, EpochLoader, ImageDataset, cores
from data.reading import VERSION
from data.transforms import Preprocess, center_square, random_crop
from utils import files
from utils.errors import RunError, UsageError
from utils.progress import in_threads

CACHE = Path("data/cache")
IN_MEMORY = 2**30  # bytes; up to this size --cache=auto keeps images in memory
AT_ONCE = 256  # images resized in one call


class CachedLoader(EpochLoader):
    """Batches of images that are in memory; has no worker processes.

    Args:
        images: (N, T, T, C) uint8, in the order of `items`; on any device.
        preprocess: if T differs from its image_size S, random crops are taken and resized to S.
        bad: {index: the error of the image that it replaces}.
    """

    def __init__(
        self,
        items: Items,
        images: torch.Tensor,
        preprocess: Preprocess,
        batch_sampler: EpochBatchSampler,
        augment: Augment | None = None,
        bad: dict[int, str] | None = None,
    ) -> None:
        self.items, self.images, self.preprocess, self.augment = items, images, preprocess, augment
        self.batch_sampler, self.bad = batch_sampler, bad or {}
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
        seed = self.augment.seed if self.augment else 0
        rng, (height, width) = random.Random(f"{seed}/{key[0]}/{key[1]}"), image.shape[:2]
        left, top, right, bottom = random_crop((width, height), self.preprocess.min_crop, rng)
        return self.preprocess.resize(image[None, top:bottom, left:right])[0]


def load_cached(
    dataset: ImageData, items: Items, preprocess: Preprocess, cache: str, replace_bad: bool, crops: bool
) -> tuple[torch.Tensor, dict[int, str]] | None:
    """Decodes the images of `items` once, if that is possible and worthwhile.

    Returns:
        (N, T, T, C) uint8, and {index: error of a bad image}; None if the files are to be read in each epoch.

    Args:
        cache: auto keeps arrays in memory, and files too if they need no random crops and take at most
            IN_MEMORY; disk keeps decoded files in CACHE; off reads files in each epoch.
        crops: random crops will be taken. T is then so large that a crop of mean area is not enlarged.

    Raises:
        UsageError: an image cannot be read, or --cache=disk is given for a data set without image files.
        RunError: the disk is full.
    """
    side, crops = preprocess.image_size, crops and preprocess.min_crop < 1
    if crops:
        side = round(side * (2 / (1 + preprocess.min_crop)) ** 0.5)
        preprocess = replace(preprocess, image_size=side, crop_pct=1.0)
    if (pixels := dataset.pixels(items)) is not None:
        return resized(torch.from_numpy(pixels), preprocess), {}
    if cache == "disk":
        return on_disk(dataset, items, preprocess, replace_bad)
    too_large = len(items) * side * side * dataset.channels > IN_MEMORY
    if cache == "off" or crops or too_large or not dataset.deterministic:
        return None
    bad: dict[int, str] = {}
    return torch.from_numpy(np.concatenate(list(decoded(dataset, items, preprocess, replace_bad, bad)))), bad


def decoded(
    dataset: ImageData, items: Items, preprocess: Preprocess, replace_bad: bool, bad: dict[int, str]
) -> Iterator[np.ndarray]:
    """The middle squares in parts of (n, S, S, C) uint8, read by threads; shows progress, fills `bad`."""
    images = ImageDataset(items, preprocess, seed=0, crop=False, replace_bad=replace_bad, dataset=dataset)
    done = 0
    for results in in_threads(lambda index: images[0, index], range(len(items)), "reading", cores()):
        samples: list[Sample] = []
        for sample in results:
            if isinstance(sample, UsageError):
                raise sample
            samples.append(sample)
        bad |= {done + i: "; ".join(lines) for i, (*_, lines) in enumerate(samples) if lines}
        done += len(samples)
        yield np.stack([image for image, *_ in samples])


def on_disk(
    dataset: ImageData, items: Items, preprocess: Preprocess, replace_bad: bool
) -> tuple[torch.Tensor, dict[int, str]]:
    """The middle squares in a file of CACHE, mapped into memory; writes the file if there is none.

    The file's name has a hash of the source files' names, sizes and times, and of the version of reading, so
    changed files get another cache file.
    """
    side, channels = preprocess.image_size, len(preprocess.mean)
    lines = [_stamp(dataset, path) for path, _ in items]
    lines.append(f"{channels} {replace_bad} {VERSION}")
    if (preprocess.interpolation, preprocess.crop_pct) != ("bilinear", 1):
        lines.append(f"{preprocess.interpolation} {preprocess.crop_pct}")
    key = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    path = CACHE / f"{dataset.root.name}_{side}_{key[:16]}.npy"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        shape, errors = (len(items), side, side, channels), dict[int, str]()
        size, free = int(np.prod(shape)), shutil.disk_usage(CACHE).free
        if size > free:
            raise RunError(f"--cache=disk needs {size / 2**20:.0f} MiB in {CACHE}, and {free / 2**20:.0f} MiB are free")
        with files.atomic_write(path, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in decoded(dataset, items, preprocess, replace_bad, errors):
                file.write(part.data)
            with files.atomic_write(path.with_suffix(".json")) as notes:
                json.dump(errors, notes)
        print(f"{path}: {len(items)} images of {side}x{side}, {size / 2**20:.0f} MiB; it can be deleted")
    bad = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the array is read-only
        return torch.from_numpy(np.load(path, mmap_mode="r")), {int(index): line for index, line in bad.items()}


def _stamp(dataset: ImageData, path: Path) -> str:
    """Name, size and time of the file behind an item."""
    source = dataset.load(path)
    if not isinstance(source, Path):
        raise UsageError(f"--cache=disk needs image files, which {dataset.name} does not give: leave it out")
    stat = source.stat()
    return f"{path.relative_to(dataset.root).as_posix()} {stat.st_size} {stat.st_mtime_ns}"


def resized(images: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(N, H, W, C) uint8 -> (N, S, S, C), the middle squares as in `Preprocess.eval`."""
    height, width = images.shape[1:3]
    left, top, right, bottom = center_square((width, height), preprocess.crop_pct)
    images = images[:, top:bottom, left:right]
    if right - left == preprocess.image_size:
        return images.contiguous()
    return torch.cat([preprocess.resize(part) for part in images.split(AT_ONCE)]).contiguous()
