"""Sets in memory or in a cache file: what is read, how it is augmented, and that keys decide it."""

import gzip
import os
import pickle
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COUNT, picture, resumes_bit_for_bit
from PIL import Image
from torchvision import datasets

import data
from config import Config
from data import cache as cached
from data.augment import Augment, gaussian, rotated, uniform
from data.cache import CachedLoader, load_cached
from data.loaders import EpochBatchSampler, Loader
from data.transforms import Preprocess
from utils import checkpoints
from utils.errors import RunError, UsageError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(cached, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def everything(loader, epoch=0) -> dict[int, torch.Tensor]:
    return {
        int(i): image.clone() for b in loader.set_epoch(epoch) for image, i in zip(b.images, b.indices, strict=True)
    }


# ---- data sets


def test_mnist_brings_its_classes_channels_and_test_part(mnist):
    found = data.open("MNIST", mnist)
    assert found.classes == list("0123456789") and found.channels == 1
    train, val = found.split(None, seed=0)
    assert (len(train), len(val)) == (240, 60)
    images, raw = found.pixels(train), datasets.MNIST(mnist).data.numpy()
    assert images.shape == (240, 28, 28, 1) and (images[..., 0] == raw).all()
    assert [label for _, label in val] == [i % 10 for i in range(60)]
    opt = Config(dataset="MNIST").with_dataset_defaults(found)
    assert (opt.image_size, opt.min_crop, opt.flip) == (28, 1, False)


def test_a_fraction_of_the_training_part_can_be_held_out_instead(mnist):
    found = data.open("MNIST", mnist)
    train, val = found.split(0.25, seed=0)
    assert (len(train), len(val)) == (180, 60) and not set(train) & set(val)
    index = int(val[7][0].name)
    assert (found.pixels(val)[7] == found.pixels(found.items)[index]).all()


def test_packed_files_that_somebody_put_there_are_unpacked(mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (mnist / "MNIST" / "raw").iterdir():
        with gzip.open(raw / f"{path.name}.gz", "wb") as file:
            file.write(path.read_bytes())
    assert len(data.open("MNIST", tmp_path).items) == 240


def test_a_damaged_packed_file_is_told_and_nothing_half_unpacked_stays(mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    whole = gzip.compress((mnist / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes())
    for content in (whole[:-1000], b"no gzip"):
        (raw / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(UsageError, match="cannot be unpacked"):
            data.open("MNIST", tmp_path)
        assert [path.name for path in raw.iterdir()] == ["train-images-idx3-ubyte.gz"]


def test_the_hash_of_the_images_sees_a_changed_pixel(mnist, tmp_path):
    shutil.copytree(mnist, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    one, other = data.open("MNIST", mnist), data.open("MNIST", tmp_path)
    assert one.fingerprint(one.items) != other.fingerprint(other.items)
    assert one.fingerprint(one.val_items) == other.fingerprint(other.val_items)


@pytest.mark.parametrize(
    "name, wanted", [("MNIST", "train-images-idx3-ubyte.gz"), ("CIFAR10", "cifar-10-python.tar.gz")]
)
def test_without_internet_one_line_says_what_to_put_where(name, wanted, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(UsageError, match=wanted) as error:
        data.open(name, tmp_path / "new" / "sets")
    assert "\n" not in str(error.value) and str(tmp_path / "new" / "sets") in str(error.value)
    assert list(tmp_path.rglob("*")) == []


def test_a_download_that_is_cut_off_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self):
        (Path(self.raw_folder)).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.MNIST, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.open("MNIST", tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_a_download_that_ends_well_is_moved_to_its_place(mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: shutil.copytree(mnist, self.root, dirs_exist_ok=True))
    assert len(data.open("MNIST", tmp_path / "new").items) == 240
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]


def test_cifar10(tmp_path, monkeypatch):
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {
            "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(20)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).exists())
    found = data.open("CIFAR10", tmp_path)
    assert found.pixels(found.items).shape == (100, 32, 32, 3) and len(found.val_items) == 20
    assert found.classes[3] == "class 3" and found.image_size == 32


def test_a_folder_with_a_part_for_validation(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "train")
    shutil.copytree(folders, tmp_path / "val")
    (tmp_path / "val" / "bird" / "0.png").unlink()
    found = data.open("Folder", tmp_path)
    train, val = found.split(None, seed=0)
    assert (len(train), len(val)) == (3 * COUNT, 3 * COUNT - 1)
    assert all("train" in path.parts for path, _ in train) and all("val" in path.parts for path, _ in val)
    shutil.rmtree(tmp_path / "val" / "cat")
    with pytest.raises(UsageError, match="has the classes"):
        data.open("Folder", tmp_path)


def test_a_folder_of_small_squares_is_seen_as_it_is(tmp_path):
    for number in range(30):
        path = tmp_path / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (24, 24), (number, 0, 0)).save(path)
    (tmp_path / "class 0" / "0.png").write_bytes(b"no image")
    found = data.open("Folder", tmp_path)
    assert (found.image_size, found.min_crop) == (24, 1.0)
    assert (
        Config().with_dataset_defaults(found).image_size == 24
        and Config(image_size=64).with_dataset_defaults(found).image_size == 64
    )
    Image.new("RGB", (30, 24)).save(tmp_path / "class 0" / "2.png")
    found = data.open("Folder", tmp_path)
    assert (found.image_size, found.min_crop) == (224, 0.25)


# ---- augmentation


def test_a_shift_is_a_crop_of_the_reflected_image():
    images = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8)
    got = Augment(seed=1, count=50, shift=3)(images, epoch=2, draws=list(range(50)))
    moves = set()
    for image, moved in zip(images.numpy(), got.numpy(), strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
        places = [(y, x) for y in range(7) for x in range(7) if (padded[y : y + 8, x : x + 8] == moved).all()]
        assert len(places) == 1
        moves |= set(places)
    assert len(moves) > 20


def test_each_image_is_mirrored_in_every_other_epoch():
    images = torch.randint(0, 256, (40, 8, 8, 1), dtype=torch.uint8)
    augment = Augment(seed=1, count=40, flip=True)
    epochs = [augment(images, epoch, list(range(40))) for epoch in range(4)]
    as_is = [[torch.equal(a, b) for a, b in zip(epoch, images, strict=True)] for epoch in epochs]
    assert as_is[0] == as_is[2] and as_is[1] == as_is[3] == [not one for one in as_is[0]]
    assert 8 < sum(as_is[0]) < 32
    assert all(torch.equal(epochs[0][i] if not as_is[0][i] else epochs[1][i], images[i].flip(1)) for i in range(40))


def test_cutout_covers_a_square_with_the_mean_colour():
    images = torch.zeros(60, 16, 16, 3, dtype=torch.uint8)
    got = Augment(seed=0, count=60, cutout=6, fill=(9, 8, 7))(images, 0, list(range(60)))
    covered = (got[..., 0] == 9) & (got[..., 1] == 8) & (got[..., 2] == 7)
    assert ((got != 0).any(-1) == covered).all()
    areas = covered.sum(dim=(1, 2))
    assert areas.max() == 36 and areas.min() >= 9 and len({tuple(c.nonzero()[0].tolist()) for c in covered}) > 20


def test_the_changes_of_an_image_depend_on_its_keys_alone():
    images = torch.randint(0, 256, (30, 12, 12, 3), dtype=torch.uint8)
    augment = Augment(5, 30, flip=True, shift=2, cutout=4)
    together = augment(images, 3, list(range(30)))
    order = [7, 2, 29]
    assert torch.equal(augment(images[order], 3, order), together[order])
    assert not torch.equal(augment(images, 4, list(range(30))), together)
    assert not torch.equal(Augment(6, 30, flip=True, shift=2, cutout=4)(images, 3, list(range(30))), together)


def draws_of_before(seed, epoch, count):
    """The numbers that flip, shift and cutout have always used."""
    return np.random.default_rng((seed, epoch + 1)).random((count, 4), dtype=np.float32)


def test_rotation_and_noise_leave_the_other_draws_alone():
    images = torch.randint(0, 256, (30, 12, 12, 3), dtype=torch.uint8)
    indices, kwargs = list(range(30)), {"flip": True, "shift": 2, "cutout": 4}
    plain = Augment(5, 30, **kwargs)(images, 3, indices)
    tiny = Augment(5, 30, **kwargs, rotate=1e-4, noise=1e-4)(images, 3, indices)
    assert torch.equal(plain, tiny) or (plain.int() - tiny.int()).abs().max() <= 1
    assert (uniform(5, 3, 30) == draws_of_before(5, 3, 30)).all()


def test_a_rotation_by_a_quarter_is_a_transposition():
    images = torch.randint(0, 256, (3, 9, 9, 3), dtype=torch.uint8)
    got = rotated(images, torch.tensor([90.0, -90.0, 0.0]), (0, 0, 0))
    assert torch.equal(got[0], torch.rot90(images[0], 1)) and torch.equal(got[1], torch.rot90(images[1], -1))
    assert torch.equal(got[2], images[2])


def test_rotation_fills_the_corners_and_is_as_pils():
    smooth = np.kron(np.arange(16).reshape(4, 4) * 16, np.ones((8, 8))).astype(np.uint8)
    image = torch.from_numpy(smooth)[None, :, :, None]
    got = rotated(image, torch.tensor([20.0]), (77,))[0, ..., 0]
    pil = np.asarray(Image.fromarray(smooth).rotate(20, Image.Resampling.BILINEAR, fillcolor=77))
    assert got[0, 0] == got[-1, -1] == 77
    assert np.abs(got[3:-3, 3:-3].int().numpy() - pil[3:-3, 3:-3].astype(int)).mean() < 1


def test_angles_and_noise_depend_on_the_keys_alone():
    images = torch.randint(0, 256, (30, 12, 12, 3), dtype=torch.uint8)
    augment = Augment(5, 30, rotate=30, noise=0.1, fill=(1, 2, 3))
    together = augment(images, 3, list(range(30)))
    assert torch.equal(augment(images[[7, 2, 29]], 3, [7, 2, 29]), together[[7, 2, 29]])
    for other in (
        augment(images, 4, list(range(30))),
        Augment(6, 30, rotate=30, noise=0.1)(images, 3, list(range(30))),
    ):
        assert all(not torch.equal(a, b) for a, b in zip(other, together, strict=True))


def test_noise_is_gaussian_and_independent():
    images = torch.full((40, 32, 32, 3), 128, dtype=torch.uint8)
    got = Augment(0, 40, noise=0.1)(images, 0, list(range(40))).float() - 128
    assert abs(got.mean()) < 0.3 and got.std() == pytest.approx(25.5, rel=0.02)
    z = gaussian(torch.tensor([[1, 2], [1, 3]], dtype=torch.int32), 200_000, torch.device("cpu"))
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert (z**power).mean() == pytest.approx(moment, abs=0.05)
    one, other, after = z[0], z[1], z[0].roll(1)
    assert abs((one * other).mean()) < 0.01 and abs((one * after).mean()) < 0.01
    assert len({tuple(row.tolist()) for row in got.flatten(1)[:, :20]}) == 40


# ---- held images


def test_held_files_are_the_images_that_are_read_each_epoch(dogcat):
    found = data.open("DogCat", dogcat / "train")
    preprocess, count = Preprocess(24, 1.0), len(found.items)
    augment = Augment(3, count, flip=True, shift=2)
    images, bad = load_cached(found, found.items, preprocess, "auto", "fail", crops=True)
    assert images.shape == (count, 24, 24, 3) and not bad
    in_memory = CachedLoader(found.items, images, preprocess, EpochBatchSampler(count, 5, 3), augment)
    with Loader(found.items, preprocess, EpochBatchSampler(count, 5, 3), 0, augment) as from_files:
        for epoch in (0, 1):
            one, other = everything(in_memory, epoch), everything(from_files, epoch)
            assert list(one) == list(other) and all(torch.equal(one[i], other[i]) for i in one)
        assert list(everything(in_memory.set_epoch(0, 10)))[:3] != list(one)[:3]


def test_crops_come_out_of_arrays_too(mnist):
    found = data.open("MNIST", mnist)
    preprocess, items = Preprocess(28, 0.3, found.mean, found.std), found.items[:40]
    images, _ = load_cached(found, items, preprocess, "auto", "fail", crops=True)
    assert images.shape == (40, 35, 35, 1)
    loader = CachedLoader(items, images, preprocess, EpochBatchSampler(40, 8, 0), Augment(0, 40))
    first, other = everything(loader, 0), everything(loader, 1)
    assert all(image.shape == (28, 28, 1) for image in first.values())
    assert sum(torch.equal(first[i], other[i]) for i in first) < 3
    assert load_cached(found, items, preprocess, "auto", "fail", crops=False)[0].shape == (40, 28, 28, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
def test_arrays_are_resized_as_files_are(interpolation, crop_pct, tmp_path):
    y, x = np.mgrid[0:50, 0:70]
    pixels = np.stack([x * 3, y * 5, x + y], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    preprocess = Preprocess(24, interpolation=interpolation, crop_pct=crop_pct)
    from_file = preprocess.eval(tmp_path / "a.png").astype(int)
    from_array = cached.resized(torch.from_numpy(pixels)[None], preprocess)[0].numpy().astype(int)
    assert np.abs(from_file - from_array).max() <= (1 if interpolation != "nearest" else 0)
    assert (preprocess.train(tmp_path / "a.png", "0/0/0") == from_file).all()


def test_the_cache_on_disk_knows_interpolation_and_crop(dogcat, cache_folder):
    found = data.open("DogCat", dogcat / "train")
    images = [
        load_cached(found, found.items, Preprocess(24, **kwargs), "disk", "fail", crops=False)[0].clone()
        for kwargs in ({}, {"interpolation": "bicubic"}, {"crop_pct": 0.7})
    ]
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert len(list(cache_folder.glob("*.npy"))) == 3


def test_the_cache_on_disk_of_another_reading_is_not_used(dogcat, cache_folder, monkeypatch):
    found = data.open("DogCat", dogcat / "train")
    load_cached(found, found.items, Preprocess(24), "disk", False, crops=False)
    monkeypatch.setattr(cached, "VERSION", cached.VERSION + 1)
    load_cached(found, found.items, Preprocess(24), "disk", False, crops=False)
    assert len(list(cache_folder.glob("*.npy"))) == 2


def test_what_is_not_held(dogcat, monkeypatch):
    found = data.open("DogCat", dogcat / "train")
    assert load_cached(found, found.items, Preprocess(24, 0.5), "auto", "fail", crops=True) is None  # crops differ
    assert load_cached(found, found.items, Preprocess(24, 1.0), "off", "fail", crops=True) is None
    monkeypatch.setattr(cached, "IN_MEMORY", 1000)
    assert load_cached(found, found.items, Preprocess(24, 1.0), "auto", "fail", crops=True) is None


def test_the_cache_on_disk_reads_each_file_once(dogcat, tmp_path, cache_folder, monkeypatch):
    root = shutil.copytree(dogcat / "train", tmp_path / "train")
    found = data.open("DogCat", root)
    images = load_cached(found, found.items, Preprocess(24, 1.0), "disk", "fail", crops=True)[0].clone()
    expected = load_cached(found, found.items, Preprocess(24, 1.0), "auto", "fail", crops=True)[0]
    assert torch.equal(images, expected)
    (path,) = cache_folder.glob("*.npy")
    with monkeypatch.context() as patch:
        patch.setattr(cached, "decoded", None)  # would raise where a file is read again
        assert torch.equal(load_cached(found, found.items, Preprocess(24, 1.0), "disk", "fail", crops=True)[0], images)
    changed = picture(found.items[3][0])
    os.utime(changed, ns=(1, 1))
    new = load_cached(found, found.items, Preprocess(24, 1.0), "disk", "fail", crops=True)[0]
    assert [i for i in range(len(new)) if not torch.equal(new[i], images[i])] == [3]
    assert len(list(cache_folder.glob("*.npy"))) == 2 and path.exists()


def test_random_crops_come_out_of_larger_squares(dogcat):
    found = data.open("DogCat", dogcat / "train")
    preprocess = Preprocess(24, 0.25)
    images, _ = load_cached(found, found.items, preprocess, "disk", "fail", crops=True)
    assert images.shape[1] == 30  # a crop of mean area, 0.625 of the whole, has 24 pixels a side
    augment = Augment(0, len(found.items))
    loader = CachedLoader(found.items, images, preprocess, EpochBatchSampler(len(found.items), 4, 0), augment)
    first, again, other = everything(loader, 0), everything(loader, 0), everything(loader, 1)
    assert all(image.shape == (24, 24, 3) and image.dtype == torch.uint8 for image in first.values())
    assert all(torch.equal(first[i], again[i]) for i in first)
    assert sum(torch.equal(first[i], other[i]) for i in first) < 3
    assert load_cached(found, found.items, preprocess, "disk", "fail", crops=False)[0].shape[1] == 24


def test_a_cache_that_does_not_fit_is_refused_and_a_bad_image_leaves_none(dogcat, tmp_path, cache_folder, monkeypatch):
    root = shutil.copytree(dogcat / "train", tmp_path / "train")
    (root / "cat.3.jpg").write_bytes(b"bad")
    found = data.open("DogCat", root)
    with pytest.raises(UsageError, match="cat.3.jpg"):
        load_cached(found, found.items, Preprocess(24, 1.0), "disk", "fail", crops=True)
    assert list(cache_folder.iterdir()) == []
    images, bad = load_cached(found, found.items, Preprocess(24, 1.0), "disk", "skip", crops=True)
    index = [path.name for path, _ in found.items].index("cat.3.jpg")
    assert list(bad) == [index] and "cat.3.jpg" in bad[index]
    loader = CachedLoader(found.items, images, Preprocess(24), EpochBatchSampler(len(found.items), 5), None, bad)
    assert [line for batch in loader for line in batch.bad] == [bad[index]]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10))
    with pytest.raises(RunError, match="--cache=disk needs"):
        load_cached(found, found.items, Preprocess(32, 1.0), "disk", "skip", crops=True)


# ---- through the commands

FLAGS = ["--dataset=MNIST", "--batch-size=32", "--max-epoch=2", "--use-gpu=false", "--vis-port=None"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["MNISTNet", "ConvNet", "resnet18"])
def test_grey_images_train_nets_of_one_and_of_three_channels(model, train, command, tmp_path):
    out, run = train(f"--model={model}", "--max-epoch=1" if model == "resnet18" else "--max-epoch=6")
    assert "240 training and 60 validation images" in out
    code, out, err = command("val", f"--load-path={run}")
    assert code == 0, err
    assert "top-5 accuracy" in out and (run / "val_best.json").is_file()
    content = checkpoints.read(run / "best.pth")
    assert model == "resnet18" or content["trainer"]["metrics"]["accuracy"] > 0.9
    picture(tmp_path / "1.png")
    result = tmp_path / "result.csv"
    code, _, err = command(
        "test", f"--load-path={run}", f"--test-data-root={tmp_path}/1.png", f"--result-file={result}"
    )
    assert code == 0 and result.read_text().startswith("id,predicted,0,1,2,3,4,5,6,7,8,9\n"), err


def test_check_looks_at_both_parts(command, mnist, tmp_path):
    words = [
        "check",
        "--dataset=MNIST",
        f"--train-data-root={mnist}",
        "--model=LeNet",
        f"--checkpoint-dir={tmp_path}",
    ]
    code, out, err = command(*words)
    assert code == 0 and "300 images (240 for training, 60 for validation)" in out, err
    assert "0 30, 1 30, 2 30" in out and "28 to 28 pixels" in out and "loss 2." in out


def test_a_shift_larger_than_the_image_is_refused(command, mnist, tmp_path):
    words = [
        "train",
        *FLAGS,
        f"--train-data-root={mnist}",
        "--model=LeNet",
        "--shift=28",
        f"--checkpoint-dir={tmp_path}",
    ]
    code, _, err = command(*words)
    assert code == 2 and "--shift=28 is too much for images of 28 pixels" in err and not list(tmp_path.iterdir())


RECIPE = [
    "--model=DigitNet",
    "--progressive-resizing=0.5",
    "--shift=2",
    "--cutout=6",
    "--mixup=0.4",
    "--cutmix=1",
    "--ema=0.9",
    "--accumulate=2",
]
RECIPE += [
    "--clip-grad=1",
    "--label-smoothing=0.1",
    "--warmup=0.2",
    "--scheduler=linear",
    "--balance=sampler",
]


@pytest.mark.slow
@pytest.mark.parametrize("amp, optimizer", [("off", "Muon"), ("bf16", "SGD")])
def test_a_run_with_every_part_of_a_recipe_resumes_bit_for_bit(amp, optimizer, train, monkeypatch):
    if optimizer == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    flags = (*RECIPE, f"--amp={amp}", f"--optimizer={optimizer}")
    from engine.tasks.classify import Classify

    resumes_bit_for_bit(Classify, 11, train, flags, monkeypatch)
