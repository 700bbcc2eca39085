"""The small sets of torchvision: downloaded, verified and read by its own classes, held as arrays."""

import gzip
import hashlib
import shutil
import tarfile
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from data.image_data import ImageData, Items
from utils import files
from utils.errors import UsageError


class _TorchvisionSet(ImageData):
    """A set with a training part, and a test part that serves for validation.

    Attributes:
        needed: what lies in its folder, in words.
    """

    home = "data"
    needed = ""
    min_crop = 1.0

    def __init__(self, root: str | Path | None = None) -> None:
        """Reads both parts from `root`; downloads them where they are not there.

        Raises:
            UsageError: they are not there, and cannot be downloaded.
        """
        self.root = Path(root or self.home)
        parts = {"train": self._part(train=True), "test": self._part(train=False)}
        self.classes = [name.partition(" - ")[0] for name in parts["train"].classes]  # "0 - zero" of MNIST
        self.arrays = {part: _with_channels(np.asarray(source.data)) for part, source in parts.items()}
        self.items, self.val_items = (
            [
                (self.root / type(self).__name__ / part / f"{i:06d}", int(label))
                for i, label in enumerate(source.targets)
            ]
            for part, source in parts.items()
        )

    def pixels(self, items: Items) -> np.ndarray:
        places = [(path.parent.name, int(path.name)) for path, _ in items]
        if len(parts := {part for part, _ in places}) > 1:
            return np.stack([self.arrays[part][index] for part, index in places])
        return self.arrays[parts.pop()][[index for _, index in places]]

    def left_out(self) -> list[Path]:
        return []

    def fingerprint(self, items: Items) -> str:
        """A hash of the pixels and the labels."""
        sha = hashlib.sha256(np.array([label for _, label in items]))
        sha.update(np.ascontiguousarray(self.pixels(items)))
        return sha.hexdigest()

    @classmethod
    def matches(cls, root: Path) -> bool:
        return False  # their files say nothing to an eye

    def _part(self, train: bool):
        """torchvision's data set."""
        from torchvision import datasets

        source = getattr(datasets, type(self).__name__)
        with suppress(Exception):  # not there, or not whole: torchvision raises whatever that leads to
            return source(self.root, train=train)
        try:
            self._unpack()
        except (OSError, EOFError, zlib.error, tarfile.TarError) as e:
            raise UsageError(f"what is packed in {self.root} cannot be unpacked ({e}): put a whole copy there") from e
        with suppress(Exception):
            return source(self.root, train=train)
        self._download(source)
        return source(self.root, train=train)

    def _download(self, source: type) -> None:
        """Into a folder beside, and moved where all is there and verified."""
        place = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())
        files.check_writable(self.root, "--train-data-root", folder=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as temp:
            try:
                for train in (True, False):
                    source(temp, train=train, download=True)
            except (OSError, RuntimeError) as e:
                reason = [type(e).__name__, *str(e).strip().splitlines()][-1]
                raise UsageError(
                    f"{self.root} does not hold {type(self).__name__}, and it cannot be downloaded ({reason}). "
                    f"Put there, from another machine: {self.needed}"
                ) from e
            self._take(Path(temp))

    def _take(self, folder: Path) -> None:
        """Moves what is in `folder` to the root, in place of what was there."""
        self.root.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            shutil.rmtree(self.root / path.name, ignore_errors=True)
            path.rename(self.root / path.name)

    def _unpack(self) -> None:
        """Unpacks what somebody put there."""


class MNIST(_TorchvisionSet):
    """Handwritten digits: 60,000 to train, 10,000 to test, 28 x 28, grey (LeCun, Cortes, Burges 1998)."""

    image_size, channels, flip = 28, 1, False
    mean, std = (0.1307,), (0.3081,)
    needed = "MNIST/raw/train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-..., t10k-labels-..."

    def _unpack(self) -> None:
        for packed in (self.root / type(self).__name__ / "raw").glob("*-ubyte.gz"):
            if not packed.with_suffix("").exists():
                with gzip.open(packed) as source, files.atomic_write(packed.with_suffix(""), "wb") as file:
                    shutil.copyfileobj(source, file)


class FashionMNIST(MNIST):
    """Pieces of clothing of ten kinds, as many and of the same size as MNIST (Xiao, Rasul, Vollgraf 2017)."""

    flip = True
    mean, std = (0.2860,), (0.3530,)
    needed = MNIST.needed.replace("MNIST", "FashionMNIST")


class KMNIST(MNIST):
    """Japanese characters of ten kinds, as many and of the same size as MNIST (Clanuwat et al. 2018)."""

    mean, std = (0.1918,), (0.3483,)
    needed = MNIST.needed.replace("MNIST", "KMNIST")


class CIFAR10(_TorchvisionSet):
    """Photographs of ten kinds: 50,000 to train, 10,000 to test, 32 x 32, colour (Krizhevsky 2009)."""

    image_size = 32
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    needed = "cifar-10-python.tar.gz"

    def _unpack(self) -> None:
        from torchvision.datasets.utils import extract_archive

        archive = self.root / self.needed
        if archive.is_file():
            with tempfile.TemporaryDirectory(prefix=".unpack-", dir=self.root) as temp:
                extract_archive(archive, temp)
                self._take(Path(temp))


class CIFAR100(CIFAR10):
    """Photographs of a hundred kinds, as many and of the same size as CIFAR10 (Krizhevsky 2009)."""

    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    needed = "cifar-100-python.tar.gz"


def _with_channels(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) -> (N, H, W, C)."""
    return pixels if pixels.ndim == 4 else pixels[..., None]
