"""Images that are decoded once and kept: in memory, or in a file that is mapped into memory."""

import hashlib
import json
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import torch

from data.augment import Augment
from data.batch import Sample
from data.image_data import ImageData, Items
from data.loaders import Batch, EpochBatchSampler, EpochLoader, ImageDataset, cores
from data.reading import VERSION
from data.sampler import Key
from data.transforms import Preprocess, center_square, random_crop
from utils import files
from utils.errors import RunError, UsageError
from utils.progress import in_threads
from utils.text import printable

CACHE = Path("data/cache")
IN_MEMORY = 2**30  # bytes; up to this size --cache=auto keeps images in memory
AT_ONCE = 256  # images resized in one call
SAMPLE = 1024  # bytes of each file that --cache=disk looks at


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
        for number, keys in enumerate(self.batch_sampler):
            epochs, images_drawn, draws = zip(*keys, strict=True)
            epoch, indices = epochs[0], torch.tensor(images_drawn)
            images = self.images[indices.to(self.images.device)]
            if images.shape[1] != self.preprocess.image_size:
                images = torch.stack([self._crop(image, key) for image, key in zip(images, keys, strict=True)])
            if self.augment:
                images = self.augment(images, epoch, list(draws))
            bad = [self.bad[index] for index in indices.tolist() if index in self.bad] if self.bad else []
            yield self._dealt(Batch(images, self.labels[indices], indices, bad), number)

    def _crop(self, image: torch.Tensor, key: Key) -> torch.Tensor:
        """A random crop of (T, T, C) uint8 as (S, S, C)."""
        seed = self.augment.seed if self.augment else 0
        rng, (height, width) = random.Random(f"{seed}/{key[0]}/{key[2]}"), image.shape[:2]
        left, top, right, bottom = random_crop((width, height), self.preprocess.min_crop, rng)
        return self.preprocess.resize(image[None, top:bottom, left:right])[0]


def load_cached(
    dataset: ImageData, items: Items, preprocess: Preprocess, cache: str, on_bad: str, crops: bool
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
        return on_disk(dataset, items, preprocess, on_bad)
    too_large = len(items) * side * side * dataset.channels > IN_MEMORY
    if cache == "off" or crops or too_large or not dataset.deterministic:
        return None
    bad: dict[int, str] = {}
    return torch.from_numpy(np.concatenate(list(decoded(dataset, items, preprocess, on_bad, bad)))), bad


def decoded(
    dataset: ImageData, items: Items, preprocess: Preprocess, on_bad: str, bad: dict[int, str]
) -> Iterator[np.ndarray]:
    """The middle squares in parts of (n, S, S, C) uint8, read by threads; shows progress, fills `bad`."""
    images = ImageDataset(items, preprocess, seed=0, crop=False, on_bad=on_bad, dataset=dataset)
    done = 0
    for results in in_threads(lambda index: images[0, index, index], range(len(items)), "reading", cores()):
        samples: list[Sample] = []
        for sample in results:
            if isinstance(sample, UsageError):
                raise sample
            samples.append(sample)
        bad |= {done + i: "; ".join(lines) for i, (*_, lines) in enumerate(samples) if lines}
        done += len(samples)
        yield np.stack([image for image, *_ in samples])


def on_disk(
    dataset: ImageData, items: Items, preprocess: Preprocess, on_bad: str
) -> tuple[torch.Tensor, dict[int, str]]:
    """The middle squares in a file of CACHE, mapped into memory; writes the file if there is none that can be read.

    The file's name has a hash of what the pixels depend on: so changed files get another cache file.
    """
    side, channels = preprocess.image_size, len(preprocess.mean)
    lines = [str(dataset.root.resolve()), *(_stamp(dataset, path) for path, _ in items)]
    lines.append(f"{VERSION} {PIL.__version__} {channels} {on_bad} {preprocess.interpolation} {preprocess.crop_pct}")
    key = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    path, shape = CACHE / f"{dataset.root.name}_{side}_{key[:16]}.npy", (len(items), side, side, channels)
    found = _load(path, shape)
    if found is None:
        _write(path, shape, dataset, items, preprocess, on_bad)
        found = _load(path, shape)
        assert found is not None  # it was just written
    return found


def _load(path: Path, shape: tuple[int, ...]) -> tuple[torch.Tensor, dict[int, str]] | None:
    """What a cache file holds; None if there is none, or it is damaged."""
    try:
        array = np.load(path, mmap_mode="r")
        bad = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if array.shape != shape or array.dtype != np.uint8:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the array is read-only
            return torch.from_numpy(array), {int(index): str(line) for index, line in bad.items()}
    except (OSError, EOFError, ValueError, AttributeError):
        return None


def _write(
    path: Path, shape: tuple[int, ...], dataset: ImageData, items: Items, preprocess: Preprocess, on_bad: str
) -> None:
    with files.disk_errors_as_failure(CACHE):
        CACHE.mkdir(parents=True, exist_ok=True)
        files.remove_parts(CACHE, older_than=3600)  # of a process that was killed; a younger one may be at work
        size, free = int(np.prod(shape)), shutil.disk_usage(CACHE).free
    if size > free:
        raise RunError(f"--cache=disk needs {size / 2**20:.0f} MiB in {CACHE}, and {free / 2**20:.0f} MiB are free")
    errors: dict[int, str] = {}
    with files.atomic_write(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in decoded(dataset, items, preprocess, on_bad, errors):
            file.write(part.data)
        with files.atomic_write(path.with_suffix(".json")) as notes:
            json.dump(errors, notes)
    images, mib = f"{shape[0]} images of {shape[1]} x {shape[2]}", size / 2**20
    print(f"{path}: {images}, {mib:.0f} MiB; it can be deleted")


def _stamp(dataset: ImageData, path: Path) -> str:
    """What tells the file behind an item from any other: its name, what the system says of it, some of its bytes."""
    source = dataset.load(path)
    if not isinstance(source, Path):
        raise UsageError(f"--cache=disk needs image files, which {dataset.name} does not give: leave it out")
    try:
        with source.open("rb", buffering=0) as file:
            stat = os.fstat(file.fileno())
            file.seek(max(stat.st_size // 2 - SAMPLE // 2, 0))
            digest = hashlib.blake2b(file.read(SAMPLE), digest_size=8).hexdigest()
    except OSError as e:
        raise UsageError(f"image {printable(source)} cannot be read: {e.strerror}") from e
    facts = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino
    return f"{path.relative_to(dataset.root).as_posix()} {' '.join(map(str, facts))} {digest}"


def resized(images: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(N, H, W, C) uint8 -> (N, S, S, C), the middle squares as in `Preprocess.eval`."""
    height, width = images.shape[1:3]
    left, top, right, bottom = center_square((width, height), preprocess.crop_pct)
    images = images[:, top:bottom, left:right]
    if right - left == preprocess.image_size:
        return images.contiguous()
    return torch.cat([preprocess.resize(part) for part in images.split(AT_ONCE)]).contiguous()
