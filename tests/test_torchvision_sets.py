"""torchvision's classification sets: arguments that its classes take, and files in their real layouts."""

import bz2
import gzip
import inspect
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, write_idx
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

import data
from data.array_data import ArrayData
from data.image_data import ImageData
from data.loaders import EpochBatchSampler, Loader
from data.torchvision_sets import source_arguments
from data.torchvision_table import TABLE
from data.transforms import Preprocess
from utils.errors import UsageError


@pytest.mark.parametrize("name", TABLE)
def test_torchvision_takes_the_arguments_and_help_has_a_line(name):
    source = getattr(datasets, name)
    signature, parent = inspect.signature(source), inspect.signature(source.__mro__[1])
    for arguments in TABLE[name].parts:
        known = signature.parameters.keys() | (parent.parameters.keys() if "kwargs" in signature.parameters else set())
        assert known >= source_arguments(source, arguments).keys()
        required = {
            p.name for p in signature.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        }
        assert required <= {"root"} | arguments.keys()
    entry = data.entries()[name]
    assert entry.docstring.endswith(".") and "\n" not in entry.docstring and TABLE[name].needed
    found = getattr(data, name)
    assert issubclass(found, ImageData) and found.__doc__ == entry.docstring
    assert all(getattr(found, key) == value for key, value in entry.constants.items())
    assert len(found.mean) == len(found.std) == found.channels or issubclass(found, ArrayData)


@pytest.mark.parametrize("name", TABLE)
def test_a_set_that_is_not_there_names_its_files(name, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    monkeypatch.setattr("torchvision.datasets.pcam.download_file_from_google_drive", offline)
    monkeypatch.setattr("torchvision.datasets.caltech.download_and_extract_archive", offline)
    with pytest.raises(UsageError) as error:
        data.open(name, tmp_path / "new")
    message = str(error.value)
    assert "\n" not in message and (TABLE[name].needed in message or "pip install" in message)
    assert list(tmp_path.iterdir()) == []


def image(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(path, (len(path.name) * 8 % 256, 90, 90), size)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def oxford_pet(root: Path) -> None:
    for part in ("trainval", "test"):
        lines = []
        for i in range(1, 4):
            for label, breed in enumerate(("Abyssinian", "american_bulldog"), 1):
                image(root / f"oxford-iiit-pet/images/{breed}_{part}{i}.jpg")
                lines.append(f"{breed}_{part}{i} {label} {label} 1")
        text(root / f"oxford-iiit-pet/annotations/{part}.txt", *lines)


def food(root: Path) -> None:
    import json

    for part, count in (("train", 3), ("test", 2)):
        files = {name: [f"{name}/{part}{i}" for i in range(count)] for name in ("apple_pie", "waffles")}
        text(root / f"food-101/meta/{part}.json", json.dumps(files))
        for name in sum(files.values(), []):
            image(root / f"food-101/images/{name}.jpg")


def gtsrb(root: Path) -> None:
    for label in range(3):
        for i in range(3):
            image(root / f"gtsrb/GTSRB/Training/{label:05d}/{i:05d}.ppm", (20 + i, 22))
    for i in range(4):
        image(root / f"gtsrb/GTSRB/Final_Test/Images/{i:05d}.ppm")
    text(
        root / "gtsrb/GT-final_test.csv",
        "Filename;Width;ClassId",
        *[f"{i:05d}.ppm;40;{i % 3}" for i in range(4)],
    )


def dtd(root: Path) -> None:
    for part in ("train", "val"):
        names = [f"{cls}/{cls}_{part}{i}.jpg" for cls in ("banded", "dotted") for i in range(3)]
        text(root / f"dtd/dtd/labels/{part}1.txt", *names)
        for name in names:
            image(root / f"dtd/dtd/images/{name}")


def eurosat(root: Path) -> None:
    for name in ("Forest", "River"):
        for i in range(3):
            image(root / f"eurosat/2750/{name}/{name}_{i}.jpg", (64, 64))


def emnist(root: Path) -> None:
    folder = root / "EMNIST/raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 47 * 2), ("test", 47)):
        pixels = np.arange(count * 784, dtype=np.uint32).reshape(count, 28, 28) % 251
        write_idx(folder / f"emnist-balanced-{part}-images-idx3-ubyte", pixels.astype(np.uint8))
        write_idx(folder / f"emnist-balanced-{part}-labels-idx1-ubyte", (np.arange(count) % 47).astype(np.uint8))


def qmnist(root: Path) -> None:
    folder = root / "QMNIST/raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 30), ("test", 20)):
        write_idx(folder / f"qmnist-{part}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
        labels = np.zeros((count, 8), ">i4")
        labels[:, 0] = np.arange(count) % 10
        head = struct.pack(">3I", 0x0C02, count, 8)
        with gzip.open(folder / f"qmnist-{part}-labels-idx2-int.gz", "wb") as file:  # to be unpacked
            file.write(head + labels.tobytes())


def aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    text(folder / "variants.txt", "707-320", "Boeing 727")
    for part in ("train", "val"):
        text(
            folder / f"images_variant_{part}.txt",
            *[f"{part}{i} {n}" for i, n in enumerate(["707-320", "Boeing 727"])],
        )
        for i in range(2):
            image(folder / f"images/{part}{i}.jpg")


def country(root: Path) -> None:
    for part in ("train", "valid"):
        for name in ("AD", "AE"):
            for i in range(2):
                image(root / f"country211/{part}/{name}/{i}.jpg")


def caltech101(root: Path) -> None:
    (root / "caltech101/Annotations").mkdir(parents=True)
    for name in ("BACKGROUND_Google", "accordion", "ant"):
        for i in range(1, 4):
            image(root / f"caltech101/101_ObjectCategories/{name}/image_{i:04d}.jpg")


def caltech256(root: Path) -> None:
    for label, name in enumerate(("ak47", "flag"), 1):
        for i in range(1, 4):
            image(root / f"caltech256/256_ObjectCategories/{label:03d}.{name}/{label:03d}_{i:04d}.jpg")


def imagenette(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("n01440764", "n02102040"):
            for i in range(2):
                path = root / f"imagenette2/{part}/{name}/{i}.JPEG"
                image(path.with_suffix(".jpg"))
                path.with_suffix(".jpg").rename(path.with_suffix(".JPEG"))


def sst2(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for name in ("negative", "positive"):
            for i in range(2):
                image(root / f"rendered-sst2/{part}/{name}/{i}.png")


def sun(root: Path) -> None:
    text(root / "SUN397/ClassName.txt", "/a/abbey", "/b/bar/indoor")
    for name in ("a/abbey", "b/bar/indoor"):
        for i in range(3):
            image(root / f"SUN397/{name}/sun_{i}.jpg")


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["Audi TT", "BMW M3"], dtype=object)})
    for part, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(f"{i:05d}.jpg", i % 2 + 1) for i in range(4)]
        savemat(folder / path, {"annotations": np.array(rows, dtype=[("fname", object), ("class", object)])})
        for name, _ in rows:
            image(folder / f"cars_{part}/{name}")


def usps(root: Path) -> None:
    for name, count in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        rows = [" ".join([str(i % 10 + 1), *[f"{k}:{(i % 3) - 1}" for k in range(1, 257)]]) for i in range(count)]
        (root / name).write_bytes(bz2.compress("\n".join(rows).encode()))


def inaturalist(root: Path) -> None:
    for part in ("2021_train_mini", "2021_valid"):
        for label, name in enumerate(("lupus", "vulpes")):
            for i in range(2):
                image(
                    root / part / f"{label:05d}_Animalia_Chordata_Mammalia_Carnivora_Canidae_Canis_{name}" / f"{i}.jpg"
                )


LAYOUTS = {  # name: what writes its files, number of training and validation images, classes
    "OxfordIIITPet": (oxford_pet, 6, 6, ["Abyssinian", "American Bulldog"]),
    "Food101": (food, 6, 4, ["apple_pie", "waffles"]),
    "GTSRB": (gtsrb, 9, 4, ["0", "1", "2"]),
    "DTD": (dtd, 6, 6, ["banded", "dotted"]),
    "EuroSAT": (eurosat, 6, 0, ["Forest", "River"]),
    "EMNIST": (emnist, 94, 47, None),
    "QMNIST": (qmnist, 30, 20, list("0123456789")),
    "FGVCAircraft": (aircraft, 2, 2, ["707-320", "Boeing 727"]),
    "Country211": (country, 4, 4, ["AD", "AE"]),
    "Caltech101": (caltech101, 6, 0, ["accordion", "ant"]),
    "Caltech256": (caltech256, 6, 0, ["001.ak47", "002.flag"]),
    "Imagenette": (imagenette, 4, 4, ["tench, Tinca tinca", "English springer, English springer spaniel"]),
    "RenderedSST2": (sst2, 4, 4, ["negative", "positive"]),
    "SUN397": (sun, 6, 0, ["abbey", "bar/indoor"]),
    "StanfordCars": (cars, 4, 4, ["Audi TT", "BMW M3"]),
    "USPS": (usps, 20, 10, list("0123456789")),
    "INaturalist": (inaturalist, 4, 4, None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_in_the_real_layout_are_read(name, tmp_path):
    write, count, val_count, classes = LAYOUTS[name]
    write(tmp_path)
    found = data.open(name, tmp_path)
    assert (len(found.items), len(found.val_items)) == (count, val_count)
    assert classes is None or found.classes == classes
    assert {label for _, label in found.items} == set(range(len(found.classes)))
    train, val = found.split(None, seed=0)
    assert train and val and not set(train) & set(val)
    preprocess = Preprocess(32, 1.0, found.mean, found.std)
    with Loader(val, preprocess, EpochBatchSampler(len(val), 64), dataset=found) as loader:
        (batch,) = list(loader.set_epoch(0))
    assert batch.images.shape == (len(val), 32, 32, found.channels)
    assert found[0][0].shape == (found.channels, found.image_size, found.image_size)
    assert found.fingerprint(train) != found.fingerprint(val) and found.left_out() == []
    assert len(getattr(data, name)(tmp_path, train=False)) == len(val)


def test_jpegs_go_to_our_own_reader_which_decodes_them_small(tmp_path, monkeypatch):
    food(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        Image.new("RGB", (1600, 1200)).save(path)
    found, sizes, resize = data.open("Food101", tmp_path), [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *args: sizes.append(self.size) or resize(self, *args))
    Preprocess(100).eval(found.load(found.items[0][0]))
    assert sizes == [(200, 150)] and found.load(found.items[0][0]).suffix == ".jpg"


def test_small_satellite_images_keep_their_size(tmp_path):
    eurosat(tmp_path)
    found = data.open("EuroSAT", tmp_path)
    assert (found.image_size, found.min_crop, found.channels) == (64, 1.0, 3)


@pytest.mark.parametrize("name", ["SVHN", "STL10", "SEMEION", "Flowers102"])
def test_sets_with_checksums(name, tmp_path, monkeypatch):
    """With the verification of torchvision switched off: only its real files would pass."""
    rng = np.random.default_rng(0)
    for module in ("svhn", "stl10", "semeion", "flowers102"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).exists()
        )
    if name == "SVHN":
        for part, count in (("train", 20), ("test", 10)):
            pixels, labels = (
                rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
                np.arange(count) % 10 + 1,
            )
            savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": labels[:, None].astype(np.uint8)})
        expected = pixels.transpose(3, 0, 1, 2)
    elif name == "STL10":
        folder = tmp_path / "stl10_binary"
        text(folder / "class_names.txt", *"abcdefghij")
        for part, count in (("train", 20), ("test", 10)):
            pixels = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
            (folder / f"{part}_X.bin").write_bytes(pixels.tobytes())
            (folder / f"{part}_y.bin").write_bytes((np.arange(count) % 10 + 1).astype(np.uint8).tobytes())
        expected = pixels.transpose(0, 3, 2, 1)
        (folder / "unlabeled_X.bin").touch()
    elif name == "SEMEION":
        pixels, labels = rng.integers(0, 2, (20, 256)), np.eye(10, dtype=int)[np.arange(20) % 10]
        np.savetxt(tmp_path / "semeion.data", np.hstack([pixels, labels]), fmt="%d")
        expected = (255 * pixels).reshape(20, 16, 16, 1)
    else:
        folder = tmp_path / "flowers-102"
        for i in range(1, 409):
            image(folder / f"jpg/image_{i:05d}.jpg")
        savemat(folder / "imagelabels.mat", {"labels": np.arange(408) % 102 + 1})
        savemat(
            folder / "setid.mat",
            {"trnid": np.arange(1, 205), "valid": np.arange(205, 409), "tstid": np.arange(1, 3)},
        )
        expected = None
    found = data.open(name, tmp_path)
    items = found.val_items or found.items
    if expected is None:
        assert len(found.classes) == 102 and (len(found.items), len(found.val_items)) == (204, 204)
    else:
        assert (found.pixels(items) == expected).all() and found.classes == (
            list("abcdefghij") if name == "STL10" else list("0123456789")
        )
        assert len(found.mean) == found.channels == expected.shape[3]
        assert found.image_size == expected.shape[1]


def test_an_archive_that_somebody_put_there_is_used_and_kept(tmp_path, monkeypatch):
    content, root = tmp_path / "content", tmp_path / "root"
    country(content)
    root.mkdir()
    with tarfile.open(root / "country211.tgz", "w:gz") as archive:
        archive.add(content / "country211", "country211")
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda path, md5=None: Path(path).exists())
    monkeypatch.setattr("torchvision.datasets.utils.calculate_md5", lambda path: datasets.Country211._MD5)
    monkeypatch.setattr("urllib.request.urlopen", None)  # would raise
    assert len(data.open("Country211", root).items) == 4
    assert sorted(path.name for path in root.iterdir()) == ["country211", "country211.tgz"]
    assert not (root / "country211.tgz").is_symlink()


def test_what_is_downloaded_joins_what_is_there(tmp_path, monkeypatch):
    """Half of a set is there: the whole takes its place, and other files stay."""
    content, root = tmp_path / "content", tmp_path / "root"
    dtd(content)
    text(root / "dtd/mine.txt", "keep")
    text(root / "dtd/dtd/labels/train1.txt", "banded/old.jpg")
    monkeypatch.setattr(datasets.DTD, "_download", lambda self: shutil.copytree(content, self.root, dirs_exist_ok=True))
    found = data.open("DTD", root)
    assert len(found.items) == 6 and (root / "dtd/mine.txt").read_text() == "keep\n"


def test_a_package_that_torchvision_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="PCAM needs the package h5py: pip install h5py"):
        data.open("PCAM", tmp_path)


def test_classes_can_be_sent_to_other_processes(tmp_path):
    eurosat(tmp_path)
    found = pickle.loads(pickle.dumps(data.open("EuroSAT", tmp_path)))
    assert type(found) is data.EuroSAT and found.load(found.items[0][0]).is_file()
