"""Sets that come as files of another program, archives, caches: what is wrong, misplaced or damaged is told."""

import gzip
import hashlib
import os
import shutil
import struct
import tarfile
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, write_idx
from torchvision import datasets

import data
from data import cache, idx
from data.cache import load_cached
from data.transforms import Preprocess
from utils.errors import UsageError


@pytest.fixture
def root(mnist, tmp_path, monkeypatch) -> Path:
    """MNIST's files, small; the machine is offline."""

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    return shutil.copytree(mnist, tmp_path / "root")


def swap(raw: Path, one: str, other: str) -> None:
    (raw / one).rename(raw / "x"), (raw / other).rename(raw / one), (raw / "x").rename(raw / other)


IMAGES, LABELS, TEST_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
FAULTS = {
    "the labels of the test part": (
        lambda raw: shutil.copy(raw / TEST_LABELS, raw / LABELS),
        "240 images and .* 60 labels",
    ),
    "fewer images": (
        lambda raw: write_idx(raw / IMAGES, np.zeros((200, 28, 28), np.uint8)),
        "200 images and .* 240 labels",
    ),
    "a label above": (
        lambda raw: write_idx(raw / LABELS, np.full(240, 10, np.uint8)),
        "has the label 10: expected 0 to 9",
    ),
    "not square": (
        lambda raw: write_idx(raw / IMAGES, np.zeros((240, 28, 20), np.uint8)),
        "20 x 28 pixels, expected squares",
    ),
    "cut": (lambda raw: os.truncate(raw / IMAGES, 5000), "is damaged: it has 5,000 bytes, and its header says 188,176"),
    "cut in the header": (lambda raw: os.truncate(raw / IMAGES, 9), "is damaged: it ends in its header"),
    "empty": (lambda raw: os.truncate(raw / LABELS, 0), "is damaged, or no file of MNIST's format"),
    "a web page": (lambda raw: (raw / LABELS).write_text("<html>"), "is damaged, or no file of MNIST's format"),
    "swapped": (lambda raw: swap(raw, IMAGES, LABELS), "holds labels, expected images: is it misnamed"),
    "dots in its name": (
        lambda raw: (raw / IMAGES).rename(raw / "train-images.idx3-ubyte"),
        "move it to .*/raw/train-images-idx3",
    ),
    "one folder up": (lambda raw: (raw / IMAGES).rename(raw.parent / IMAGES), "move it to .*/raw/train-images-idx3"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["MNIST", "KMNIST"])
def test_what_is_wrong_with_files_of_mnists_format(fault, name, root):
    if name != "MNIST":
        (root / "MNIST").rename(root / name)
    change, said = FAULTS[fault]
    change(root / name / "raw")
    with pytest.raises(UsageError, match=said) as caught:
        data.open(name, root)
    assert "\n" not in str(caught.value)


def test_a_header_that_promises_too_much(root):
    (root / "MNIST" / "raw" / IMAGES).write_bytes(struct.pack(">4I", 0x803, *[2**32 - 1] * 3))
    with pytest.raises(UsageError, match="is damaged: it has 16 bytes"):
        data.open("MNIST", root)


def test_a_packed_file_of_another_set_is_named(root, monkeypatch):
    packed = gzip.compress(b"clothes")
    md5 = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(datasets.FashionMNIST, "resources", [(f"{IMAGES}.gz", md5)])
    (root / "MNIST" / "raw" / f"{IMAGES}.gz").write_bytes(packed)
    with pytest.raises(UsageError, match=f"is the original file FashionMNIST/{IMAGES}.gz"):
        data.open("MNIST", root)


@pytest.mark.slow
def test_the_images_of_another_set_are_told_by_their_mean(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.zeros((60_000, 4, 4), np.uint8)
    images.reshape(-1)[: round(0.1307 * images.size)] = 255
    write_idx(raw / IMAGES, images)
    write_idx(raw / LABELS, np.arange(60_000, dtype=np.uint8) % 10)
    write_idx(raw / "t10k-images-idx3-ubyte", images[:100])
    write_idx(raw / TEST_LABELS, np.arange(100, dtype=np.uint8) % 10)
    with pytest.raises(UsageError, match="holds the images of MNIST: use --dataset=MNIST"):
        data.open("FashionMNIST", tmp_path)
    (tmp_path / "FashionMNIST").rename(tmp_path / "MNIST")
    assert len(data.open("MNIST", tmp_path).items) == 60_000


def test_the_names_are_torchvisions(monkeypatch):
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        assert {f"{file}.gz" for pair in idx.PAIRS[name] for file in pair} == {
            f for f, _ in getattr(datasets, name).resources
        }


# ---- archives


@pytest.mark.parametrize("content", ["other files", "no archive"])
@pytest.mark.parametrize(
    ("name", "archive", "folder"),
    [
        ("CIFAR10", "cifar-10-python.tar.gz", "cifar-10-batches-py"),
        ("CIFAR100", "cifar-100-python.tar.gz", "cifar-100-python"),
        ("STL10", "stl10_binary.tar.gz", "stl10_binary"),
        ("DTD", "dtd/dtd-r1.0.1.tar.gz", "dtd/dtd"),
        ("Food101", "food-101.tar.gz", "food-101"),
        ("Imagenette", "imagenette2.tgz", "imagenette2"),
    ],
)
def test_an_archive_with_other_content_harms_nothing(name, archive, folder, content, tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / folder).mkdir(parents=True)
    (root / folder / "mine.txt").write_text("years of work")
    (root / archive).parent.mkdir(exist_ok=True)
    if content == "other files":
        (tmp_path / "mine.txt").write_text("not mine")
        with tarfile.open(root / archive, "w:gz") as file:
            file.add(tmp_path / "mine.txt", f"{Path(folder).name}/mine.txt")
    else:
        (root / archive).write_bytes(b"no archive")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    reached = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: reached.append(args))
    with pytest.raises(UsageError, match="its MD5 is"):
        data.open(name, root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before and not reached


def test_what_was_unpacked_is_read_before_it_takes_its_place(tmp_path, monkeypatch):
    """Should the checksum agree all the same."""
    root = tmp_path / "root"
    (root / "country211").mkdir(parents=True)
    (root / "country211" / "mine.txt").write_text("mine")
    (tmp_path / "other").write_text("x")
    with tarfile.open(root / "country211.tgz", "w:gz") as file:
        file.add(tmp_path / "other", "country211/mine.txt")
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda path, md5=None: Path(path).exists())
    monkeypatch.setattr("torchvision.datasets.utils.calculate_md5", lambda path: datasets.Country211._MD5)
    monkeypatch.setattr("urllib.request.urlopen", None)
    with pytest.raises(UsageError, match="does not hold Country211"):
        data.open("Country211", root)
    assert (root / "country211" / "mine.txt").read_text() == "mine"


# ---- the cache on disk


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Reads the images of a folder through the cache in another folder."""
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")

    def read(root: Path) -> torch.Tensor:
        found = data.open("Folder", root)
        return load_cached(found, found.items, Preprocess(8), "disk", "fail", crops=False)[0].clone()

    return read


def coloured(root: Path, colour: tuple[int, int, int]) -> Path:
    """Two classes of three images; whatever the colour, names, sizes and times agree."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            path = picture(root / name / f"{i}.bmp", colour)
            os.utime(path, (1e9, 1e9))
    return root


def test_two_sets_that_agree_in_names_sizes_and_times(cached, tmp_path):
    for place in ("one/set", "two/set"):
        colour = (200, 0, 0) if place == "one/set" else (0, 0, 200)
        assert (cached(coloured(tmp_path / place, colour))[0, 0, 0] == torch.tensor(colour)).all()


def test_a_copy_with_its_times_in_the_place_of_another(cached, tmp_path):
    cached(coloured(tmp_path / "set", (200, 0, 0)))
    coloured(tmp_path / "new", (0, 0, 200))
    shutil.rmtree(tmp_path / "set")
    shutil.copytree(tmp_path / "new", tmp_path / "set", copy_function=shutil.copy2)
    assert (cached(tmp_path / "set")[0, 0, 0] == torch.tensor([0, 0, 200])).all()


def test_a_file_that_is_replaced_in_place(cached, tmp_path):
    root = coloured(tmp_path / "set", (200, 0, 0))
    cached(root)
    with (root / "a" / "1.bmp").open("r+b") as file:
        file.write(picture(tmp_path / "x.bmp", (0, 0, 200)).read_bytes())
    os.utime(root / "a" / "1.bmp", (1e9, 1e9))
    assert [pixel[0].item() for pixel in cached(root)[:3, 0, 0]] == [200, 0, 200]


def test_another_version_of_the_reader_reads_anew(cached, tmp_path, monkeypatch):
    cached(coloured(tmp_path / "set", (200, 0, 0)))
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    cached(tmp_path / "set")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


DAMAGE = {
    "cut": lambda path: os.truncate(path, path.stat().st_size - 10),
    "cut in the header": lambda path: os.truncate(path, 20),
    "empty": lambda path: os.truncate(path, 0),
    "other bytes": lambda path: path.write_bytes(b"\0" * 2000),
    "another array": lambda path: np.save(path, np.zeros((3, 8, 8, 3), np.uint8)),
    "objects": lambda path: np.save(path, np.array([None]), allow_pickle=True),
    "no notes": lambda path: path.with_suffix(".json").unlink(),
    "cut notes": lambda path: path.with_suffix(".json").write_text("{"),
    "other notes": lambda path: path.with_suffix(".json").write_text("[1]"),
    "no number": lambda path: path.with_suffix(".json").write_text('{"a": "b"}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_anew(damage, cached, tmp_path):
    before = cached(coloured(tmp_path / "set", (200, 0, 0)))
    (path,) = (tmp_path / "cache").glob("*.npy")
    DAMAGE[damage](path)
    assert torch.equal(cached(tmp_path / "set"), before)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(cached, tmp_path):
    (tmp_path / "cache").mkdir()
    old, young = tmp_path / "cache" / ".a.npy.x.part", tmp_path / "cache" / ".b.npy.y.part"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    cached(coloured(tmp_path / "set", (200, 0, 0)))
    assert not old.exists() and young.exists()
