"""Data sets from outside of the repository, and the book's way to use one: every set as a torch data set."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COUNT, ROOT, picture
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms as tv

import data
from data.array_data import ArrayData
from data.cache import load_cached
from data.image_data import ImageData
from data.inspection import inspect_images
from data.loaders import EpochBatchSampler, Loader
from data.torch_dataset import TorchDataset
from data.transforms import Preprocess
from utils import registry
from utils.errors import UsageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)


class Items(Dataset):
    """Gives the images one by one, converted by `convert`; keeps no labels."""

    def __init__(self, convert, labels=None, count=12):
        self.convert, self.given, self.count = convert, labels or [i % 3 for i in range(count)], count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.convert(PIXELS[index]), self.given[index]


def opened(target, root=None) -> ImageData:
    return data.open(registry.register(target), root)


def read_all(found: ImageData, side=20) -> np.ndarray:
    items = found.items
    with Loader(items, Preprocess(side), EpochBatchSampler(len(items), 4), dataset=found) as loader:
        return np.concatenate([batch.images.numpy() for batch in loader.set_epoch(0)])


CONVERSIONS = {
    "PIL image": Image.fromarray,
    "array": lambda pixels: pixels,
    "uint8 tensor": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "float tensor": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_images_of_every_type_are_read_with_their_values(kind):
    found = opened(Items(CONVERSIONS[kind]))
    assert isinstance(found, TorchDataset) and found.classes == ["0", "1", "2"]
    assert [label for _, label in found.items] == [i % 3 for i in range(12)]
    assert found.image_size == 20 and found.min_crop == 1
    assert (read_all(found) == PIXELS).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pil_images_of_every_mode(mode):
    found = opened(Items(lambda pixels: Image.fromarray(pixels).convert(mode)))
    assert read_all(found).shape == (12, 20, 20, 3)


def test_grey_arrays_and_tensors():
    for convert in (lambda p: p[..., 0], lambda p: torch.from_numpy(p[..., 0]), lambda p: p[..., :1]):
        got = read_all(opened(Items(convert)))
        assert (got == PIXELS[..., :1]).all()


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (
            lambda p: tv.Normalize((0.5,) * 3, (0.5,) * 3)(torch.from_numpy(p).permute(2, 0, 1) / 255),
            "Normalize",
        ),
        (lambda p: torch.from_numpy(p).permute(2, 0, 1).float(), "floats from .* to 255"),
        (lambda p: torch.from_numpy(p).permute(2, 0, 1).long(), "int64"),
        (lambda p: "cat.jpg", "is a str: expected a PIL image"),
        (lambda p: p[:, :, :2], "is no image"),
    ],
)
def test_other_images_are_refused_in_one_line(convert, message):
    with pytest.raises(UsageError, match=message) as error:
        opened(Items(convert))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", [torch.tensor(1), np.int64(1), torch.tensor(1, dtype=torch.uint8), np.array(1)])
def test_labels_that_are_integers(label):
    found = opened(Items(Image.fromarray, [0, 0, *[label] * 10]))
    assert [k for _, k in found.items] == [0, 0, *[1] * 10]


@pytest.mark.parametrize("label", [1.0, "cat", True, torch.tensor([1, 0]), torch.tensor(1.0), None])
def test_labels_that_are_none_are_refused(label):
    with pytest.raises(UsageError, match="label 11 of Items is .*expected an int"):
        opened(Items(Image.fromarray, [0, 1] * 5 + [0, label]))


def test_labels_and_classes_come_from_the_attributes_that_torchvision_uses():
    for attribute, value in {
        "targets": [i % 3 for i in range(12)],
        "labels": torch.arange(12) % 3,
        "_labels": np.arange(12) % 3,
        "samples": [(f"{i}.jpg", i % 3) for i in range(12)],
    }.items():
        reads, source = [], Items(lambda pixels: reads.append(1) or pixels)  # noqa: B023
        setattr(source, attribute, value)
        source.class_to_idx = {"dog": 1, "cat": 0, "owl": 2}
        found = opened(source)
        assert [k for _, k in found.items] == [i % 3 for i in range(12)] and found.classes == [
            "cat",
            "dog",
            "owl",
        ]
        assert len(reads) < 16  # two to compare, twelve to see the size: not another twelve for the labels


def test_an_attribute_that_disagrees_with_the_items_is_not_believed():
    source = Items(Image.fromarray)
    source.targets, source.labels = [0] * 12, [1, 2]
    assert [k for _, k in opened(source).items] == [i % 3 for i in range(12)]


def test_labels_out_of_the_classes_and_single_images_are_refused():
    source = Items(Image.fromarray)
    source.classes = ["a", "b"]
    with pytest.raises(UsageError, match="label 2: expected 0 to 1"):
        opened(source)
    with pytest.raises(UsageError, match="two images in each; found 1 of 1"):
        opened(Items(Image.fromarray, [0] * 11 + [1]))


MODULE = """
import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

class Base(Dataset):
    def __init__(self, count, seed):
        self.data = np.random.default_rng(seed).integers(0, 256, (count, 16, 16), dtype=np.uint8)
        self.targets = [i % 2 for i in range(count)]
    def __len__(self):
        return len(self.data)
    def __getitem__(self, i):
        return self.data[i], self.targets[i]

class WithTrain(Base):
    def __init__(self, root, train=True, transform="set", download=True):
        assert transform is None and download is False and root == "somewhere"
        super().__init__(10 if train else 4, seed=train)

class WithSplit(Base):
    def __init__(self, root=".", split="train"):
        super().__init__({"train": 10, "test": 6}[split], seed=0)

class OnlyTrain(Base):
    def __init__(self, split="train"):
        super().__init__({"train": 10}[split], seed=0)

class Needs(Base):
    def __init__(self, root, annFile):
        pass

class Shaky(Base):
    def __init__(self):
        super().__init__(8, 0)
    def __getitem__(self, i):
        return self.data[i] ^ 1, self.targets[i]

def tensors():
    return TensorDataset(torch.rand(8, 3, 16, 16), torch.arange(8) % 2)

def nothing():
    return [1, 2].__iter__()

def bug():
    return {}["key"]
"""


@pytest.fixture
def module(tmp_path) -> Path:
    path = tmp_path / "my_sets.py"
    path.write_text(MODULE)
    return path


def test_train_and_split_give_the_two_parts(module):
    found = data.open(f"{module}:WithTrain", "somewhere")
    assert (len(found.items), len(found.val_items)) == (10, 4) and found.classes == ["0", "1"]
    assert found.pixels(found.items).shape == (10, 16, 16, 1) and found.channels == 1 and len(found.mean) == 1
    found = data.open(f"{module}:WithSplit")
    assert (len(found.items), len(found.val_items)) == (10, 6)
    train, val = found.split(None, 0)
    assert (train, val) == (found.items, found.val_items)


def test_a_set_without_parts_is_split_by_fraction(module):
    found = data.open(f"{module}:Shaky")
    train, val = found.split(0.25, 0)
    assert (len(train), len(val)) == (6, 2) and not found.val_items


def test_arrays_are_held_only_if_the_items_are_the_same(module):
    assert isinstance(data.open(f"{module}:WithSplit"), ArrayData)
    found = data.open(f"{module}:Shaky")
    assert isinstance(found, TorchDataset)
    assert (read_all(found, 16)[..., 0] == found.parts["train"].data ^ 1).all()


def test_a_tensor_data_set_is_held_as_an_array(module):
    found = data.open(f"{module}:tensors")
    assert isinstance(found, ArrayData) and found.pixels(found.items).shape == (8, 16, 16, 3)
    images = torch.from_numpy(PIXELS)
    same = opened(TensorDataset(images.permute(0, 3, 1, 2), torch.arange(12) % 2))
    assert (same.pixels(same.items) == PIXELS).all()
    expected = (PIXELS / 255).mean((0, 1, 2)), (PIXELS / 255).std((0, 1, 2))
    np.testing.assert_allclose((same.mean, same.std), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("Needs", "x", "annFile, which cannot be given"),
        ("WithTrain", None, "--train-data-root=DIR"),
        ("OnlyTrain", None, "none of val, valid, test"),
        ("nothing", None, "which is no data set"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(name, root, message, module):
    with pytest.raises(UsageError, match=message) as error:
        data.open(f"{module}:{name}", root)
    assert "\n" not in str(error.value)


def test_a_bug_keeps_its_traceback(module):
    with pytest.raises(KeyError):
        data.open(f"{module}:bug")


def test_find_runs_nothing_and_names_the_nearest(module, tmp_path):
    (tmp_path / "explosive.py").write_text("raise RuntimeError\nclass Mine: pass\n")
    assert data.find(f"{tmp_path}/explosive.py:Mine") == f"{tmp_path}/explosive.py:Mine"
    with pytest.raises(UsageError, match="Did you mean WithTrain"):
        data.find(f"{module}:WithTrian")
    with pytest.raises(UsageError, match="no file"):
        data.find(f"{tmp_path}/nowhere.py:Mine")
    assert data.find("food101") == "Food101" and data.find("dogcat") == "DogCat"
    with pytest.raises(UsageError, match="Did you mean Food101"):
        data.find("Fod101")


def test_a_class_of_image_data_is_used_as_it_is(dogcat, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from data import DogCat\n\nclass Mine(DogCat):\n    image_size = 40\n"
        "    def scan(self, root):\n        classes, items = super().scan(root)\n"
        "        return classes, items[::2]\n"
    )
    found = data.open(f"{tmp_path}/mine.py:Mine", dogcat / "train")
    assert found.image_size == 40 and len(found.items) == COUNT


def test_torchvisions_own_name_means_the_set_of_that_name(mnist):
    found = data.open("torchvision.datasets:MNIST", mnist)
    assert type(found) is data.MNIST and len(found.val_items) == 60


def test_arrays_given_in_python():
    found = opened(ArrayData(PIXELS, [0, 1] * 6, PIXELS[:4], [0, 1, 0, 1], classes=["a", "b"]))
    assert found.classes == ["a", "b"] and (found.pixels(found.val_items) == PIXELS[:4]).all()
    assert np.array_equal(found.load(found.items[5][0]), PIXELS[5])
    with pytest.raises(UsageError, match="leave out the folder"):
        opened(ArrayData(PIXELS, [0, 1] * 6), "some/folder")
    with pytest.raises(UsageError, match="12 images and 3 labels"):
        ArrayData(PIXELS, [0, 1, 1])
    with pytest.raises(UsageError, match="expected uint8"):
        ArrayData(PIXELS / 255, [0, 1] * 6)


def test_items_that_may_change_are_read_each_epoch_and_not_cached():
    changing = opened(Items(lambda pixels: Image.fromarray(np.roll(pixels, int(RNG.integers(20)), 0))))
    assert load_cached(changing, changing.items, Preprocess(20), "auto", False, crops=False) is None
    with pytest.raises(UsageError, match="--cache=disk needs image files"):
        load_cached(changing, changing.items, Preprocess(20), "disk", False, crops=False)


def test_a_bad_image_of_a_set_is_replaced_or_named():
    bad = []

    def convert(pixels):
        if bad and np.array_equal(pixels, PIXELS[bad[0]]):
            raise OSError("truncated")
        return Image.fromarray(pixels)

    found = opened(Items(convert))
    bad.append(7)
    sampler = EpochBatchSampler(12, 12)
    with Loader(found.items, Preprocess(20), sampler, on_bad="skip", dataset=found) as loader:
        (batch,) = list(loader)
    assert len(batch) == 12 and set(batch.bad) == {"image 7 of Items cannot be read: truncated"}
    assert any((batch.images[7].numpy() == PIXELS[i]).all() for i in (1, 4, 10))
    with (
        pytest.raises(UsageError, match="image 7 of Items"),
        Loader(found.items, Preprocess(20), sampler, dataset=found) as loader,
    ):
        list(loader)


def test_images_in_memory_are_inspected():
    found = opened(Items(lambda pixels: Image.fromarray(pixels).convert("L")))
    inspections = inspect_images(found, found.items, Preprocess(20), threads=1)
    assert len({one.digest for one in inspections}) == 12
    assert all(one.size == (20, 20) and one.kinds == ("grey",) and one.problem is None for one in inspections)


def test_workers_read_the_same_from_a_set():
    found = opened(Items(Image.fromarray))
    with Loader(found.items, Preprocess(20), EpochBatchSampler(12, 5), 2, dataset=found) as loader:
        got = np.concatenate([batch.images.numpy() for batch in loader.set_epoch(0)])
    assert (got == PIXELS).all()


# ---- the book's chapter 6


def test_the_books_data_set(dogcat):
    from data.dataset import DogCat

    assert data.DogCat is DogCat
    train, val = DogCat(dogcat / "train", train=True), DogCat(str(dogcat / "train"), train=False)
    everything = DogCat(dogcat / "train")
    assert sorted(train.items + val.items) == everything.items and not set(train.items) & set(val.items)
    assert len(train) == len(train.items) == 2 * (COUNT - round(0.3 * COUNT)) and len(everything) == 2 * COUNT
    image, label = val[0]
    assert image.shape == (3, 224, 224) and image.dtype == torch.float32 and label == val.items[0][1]
    expected = tv.Compose([tv.Resize(224), tv.CenterCrop(224), tv.ToTensor(), tv.Normalize(DogCat.mean, DogCat.std)])(
        Image.open(val.items[0][0]).convert("RGB")
    )
    assert (image - expected).abs().mean() < 0.05
    assert torch.equal(val[0][0], val[0][0]) and not torch.equal(train[0][0], train[0][0])


def test_the_books_transforms_and_test_images(dogcat):
    transforms = tv.Compose([tv.Resize((10, 12)), tv.ToTensor()])
    found = data.DogCat(dogcat / "train", transforms, train=False)
    assert found[0][0].shape == (3, 10, 12) and found[0][0].min() >= 0
    found = data.DogCat(dogcat / "test1", test=True)
    assert [found[i][1] for i in range(len(found))] == list(range(1, 11)) and found[0][0].shape == (
        3,
        224,
        224,
    )
    with pytest.raises(UsageError, match="no folder"):
        data.DogCat(dogcat / "nowhere", test=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_set_works_in_torchs_data_loader(workers, dogcat, folders, mnist):
    sets = [data.DogCat(dogcat / "train", train=True), data.Folder(folders), data.MNIST(mnist, train=False)]
    sets.append(opened(Items(Image.fromarray)))
    for found in sets:
        loader = DataLoader(found, batch_size=4, num_workers=workers, shuffle=True)
        images, labels = next(iter(loader))
        side = found.image_size
        assert images.shape == (4, found.channels, side, side) and labels.dtype == torch.int64
        assert len(loader.dataset) == len(found.items)


def test_training_items_follow_torchs_seed(dogcat):
    found = data.DogCat(dogcat / "train", train=True)
    images = []
    for _ in range(2):
        torch.manual_seed(5)
        images.append(torch.stack([found[0][0] for _ in range(3)]))
    assert torch.equal(*images) and not torch.equal(images[0][0], images[0][1])


# ---- what was read, and from where


def test_unlabelled_images_of_sub_folders_are_counted(tmp_path):
    for name, count in (("a", 2), ("b/c", 3)):
        (tmp_path / name).mkdir(parents=True)
        for i in range(count):
            picture(tmp_path / name / f"{i}.png")
    assert data.open("Unlabelled", tmp_path).notes == [f"Unlabelled in {tmp_path}: 5 images from 2 folders: a 2, b/c 3"]
    for i in range(4):
        picture(tmp_path / "a" / f"x{i}.png")
    assert data.open("Unlabelled", tmp_path / "a").notes == []


def test_a_folder_with_two_parts_says_so(folders, tmp_path):
    (tmp_path / "train").symlink_to(folders)
    (tmp_path / "valid").symlink_to(folders)
    assert data.open("Folder", folders).notes == []
    (note,) = data.open("Folder", tmp_path).notes
    assert f"{3 * COUNT} images in train for training, {3 * COUNT} in valid for validation" in note


def test_names_need_neither_torch_nor_torchvision():
    code = (
        "import sys, data; data.names(); data.entries(); data.find('cifar10');"
        "print({'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "set()", run.stderr
