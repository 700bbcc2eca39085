"""Data sets, splits, decoding and batches: what is read, in which order, and that only the keys decide it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COUNT, picture
from PIL import Image
from torchvision import transforms as tv

import data
from data import unlabelled
from data.augment import Augment
from data.loaders import EpochBatchSampler, Loader
from data.reading import read
from data.transforms import Preprocess, center_square
from utils.errors import UsageError


def test_dogcat_reads_kaggles_layout_and_leaves_strays_out(dogcat, tmp_path):
    for path in (dogcat / "train").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for stray in (
        "Thumbs.db",
        ".DS_Store",
        "cat.jpg",
        "bird.1.jpg",
        "dog.x.jpg",
        "._cat.1.jpg",
        "readme.txt",
    ):
        (tmp_path / stray).write_text("stray")
    (tmp_path / "cat.99.jpg").mkdir()
    found = data.open("DogCat", tmp_path)
    assert found.classes == ["cat", "dog"]
    assert len(found.items) == 2 * COUNT
    assert all(label == ("dog" in path.name) for path, label in found.items)


def test_folder_takes_classes_from_folders(folders):
    found = data.open("Folder", folders)
    assert found.classes == ["bird", "cat", "dog"]
    assert [found.classes[label] for _, label in found.items] == [path.parent.name for path, _ in found.items]


def test_the_folder_above_is_told_which_one_was_meant(dogcat):
    with pytest.raises(UsageError, match=r"Did you mean .*train\?"):
        data.open("DogCat", dogcat)


def test_the_data_set_that_would_read_the_folder_is_told(dogcat, folders):
    with pytest.raises(UsageError, match="train with --dataset=Folder"):
        data.open("DogCat", folders)
    with pytest.raises(UsageError, match="train with --dataset=DogCat"):
        data.open("Folder", dogcat / "train")


def test_a_folder_without_images(tmp_path):
    for name in ("DogCat", "Folder", "Demo"):
        with pytest.raises(UsageError, match="data set: expected .*; found"):
            data.open(name, tmp_path)


@pytest.mark.slow
def test_demo_is_made_on_first_use(tmp_path):
    root = tmp_path / "demo" / "train"
    found = data.open("Demo", root)
    stamps = {path: path.stat().st_mtime_ns for path, _ in found.items}
    assert len(stamps) >= 400 and (tmp_path / "demo" / "test1").is_dir()
    assert {path: path.stat().st_mtime_ns for path, _ in data.open("Demo", root).items} == stamps


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.99])
def test_split(dogcat, folders, fraction):
    for found in (data.open("DogCat", dogcat / "train"), data.open("Folder", folders)):
        train, val = found.split(fraction, seed=0)
        assert sorted(train + val) == found.items and not set(train) & set(val)
        for part in (train, val):
            assert {label for _, label in part} == set(range(len(found.classes)))
        wanted = min(max(round(COUNT * fraction), 1), COUNT - 1)
        assert len(val) == wanted * len(found.classes)


def test_the_split_depends_on_seed_and_names_only(dogcat, tmp_path):
    names = []
    for number, folder in enumerate((dogcat / "train", tmp_path / "moved")):
        if number:
            folder.mkdir()
            for path in sorted((dogcat / "train").iterdir(), reverse=True):
                (folder / path.name).write_bytes(path.read_bytes())
        names.append([path.name for path, _ in data.open("DogCat", folder).split(0.3, seed=7)[1]])
    assert names[0] == names[1]
    assert names[0] != [path.name for path, _ in data.open("DogCat", dogcat / "train").split(0.3, seed=8)[1]]


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (64, 64), (50, 40)])
def test_eval_equals_resize_and_center_crop(size, tmp_path):
    """A smooth picture, as a JPEG decoded at a part of its size and as a PNG, compared with torchvision."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 / width, y * 255 / height, 127 + 60 * np.sin(x / width * 9 + y / height * 5)], axis=-1)
    image = Image.fromarray(pixels.astype(np.uint8))
    expected = np.asarray(tv.CenterCrop(64)(tv.Resize(64)(image)), dtype=int)
    for name in ("a.png", "a.jpg"):
        image.save(tmp_path / name, quality=98)
        got = Preprocess(64).eval(tmp_path / name).astype(int)
        assert got.shape == (64, 64, 3)
        assert np.abs(got - expected).mean() < 1.5
        assert np.abs(got - expected).max() < 14


def test_jpegs_are_not_decoded_whole(tmp_path, monkeypatch):
    path = picture(tmp_path / "big.jpg", size=(1600, 1200))
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *args: sizes.append(self.size) or resize(self, *args))
    Preprocess(100).eval(path)
    assert sizes == [(200, 150)]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "LA"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    path = tmp_path / ("a.jpg" if mode in ("L", "CMYK") else "a.png")
    Image.new("RGB", (40, 30), "white").convert(mode).save(path)
    got = Preprocess(16).eval(path)
    assert got.shape == (16, 16, 3) and got.dtype == np.uint8 and got.min() > 250


@pytest.mark.parametrize("scale", [257, 1 / 255])
def test_grey_of_16_bits_and_of_floats_keeps_its_values(scale, tmp_path):
    values = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    path = tmp_path / ("a.png" if scale > 1 else "a.tif")
    Image.fromarray((values * scale).astype(np.uint16 if scale > 1 else np.float32)).save(path)
    got = Preprocess(64).eval(path).astype(float)
    assert np.abs(got[..., 0] - values).max() < 2


def test_a_mistyped_place_of_the_demo_draws_nothing(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        data.open("Demo", tmp_path / "deep" / "x")
    assert not list(tmp_path.iterdir())


def test_exif_orientation(tmp_path):
    image = Image.new("RGB", (60, 40), "black")
    image.paste("white", (0, 0, 30, 40))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the upper half is white
    image.save(tmp_path / "a.jpg", exif=exif)
    got = Preprocess(16).eval(tmp_path / "a.jpg")
    assert got[:6].min() > 200 and got[-6:].max() < 50


@pytest.mark.parametrize("content", [b"", b"<html>not here</html>", b"\xff\xd8\xff\xe0 cut"])
def test_a_file_that_is_no_image_is_named(content, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(UsageError, match=r"image .*bad\.jpg cannot be read"):
        read(tmp_path / "bad.jpg", 16, center_square)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_one_line_from_a_worker_too(workers, dogcat, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    items = [(tmp_path / "bad.jpg", 0), (tmp_path / "bad.jpg", 1)]
    with (
        pytest.raises(UsageError) as error,
        Loader(items, Preprocess(16), EpochBatchSampler(2, 2), workers) as loader,
    ):
        list(loader)
    assert "\n" not in str(error.value) and "bad.jpg" in str(error.value)


def batches(items, workers, epoch, augment=True, seed=3):
    augment = Augment(seed, len(items), flip=True, shift=2, cutout=5) if augment else None
    with Loader(
        items, Preprocess(24, min_crop=0.3), EpochBatchSampler(len(items), 5, seed), workers, augment
    ) as loader:
        return [(b.images.clone(), b.labels.clone(), b.indices.clone()) for b in loader.set_epoch(epoch)]


def test_workers_and_earlier_epochs_change_nothing(dogcat):
    items = data.open("DogCat", dogcat / "train").items
    alone = batches(items, workers=0, epoch=4)
    augment = Augment(3, len(items), flip=True, shift=2, cutout=5)
    with Loader(items, Preprocess(24, min_crop=0.3), EpochBatchSampler(len(items), 5, 3), 2, augment) as loader:
        list(loader.set_epoch(0))
        for got, expected in zip(loader.set_epoch(4), alone, strict=True):
            assert torch.equal(got.images, expected[0]) and torch.equal(got.labels, expected[1])
            assert torch.equal(got.indices, expected[2])


def test_epochs_and_seeds_differ(dogcat):
    items = data.open("DogCat", dogcat / "train").items
    first, second, other = batches(items, 0, 0), batches(items, 0, 1), batches(items, 0, 0, seed=4)
    assert not torch.equal(first[0][2], second[0][2]) and not torch.equal(first[0][2], other[0][2])
    by_index = [{int(i): im for b in part for im, i in zip(b[0], b[2], strict=True)} for part in (first, second)]
    assert sum(torch.equal(by_index[0][i], by_index[1][i]) for i in by_index[0]) == 0
    plain = [
        {int(i): im for b in batches(items, 0, e, augment=False) for im, i in zip(b[0], b[2], strict=True)}
        for e in (0, 1)
    ]
    assert all(torch.equal(plain[0][i], plain[1][i]) for i in plain[0])


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (5, 1, [1] * 5), (3, 8, [3])],
)
def test_a_last_single_image_joins_the_batch_before(count, size, lengths):
    made = EpochBatchSampler(count, size, seed=0)
    keys = [key for batch in made for key in batch]
    assert sorted(keys) == [(0, i, i) for i in range(count)]
    assert [len(batch) for batch in made] == lengths
    assert len(list(made)) == len(made)


def test_random_crops_stay_inside_and_vary(tmp_path):
    pixels = np.arange(60 * 80, dtype=np.uint32).reshape(60, 80) % 251
    path = tmp_path / "a.png"
    Image.fromarray(np.repeat(pixels[..., None].astype(np.uint8), 3, axis=2)).save(path)
    preprocess = Preprocess(32, min_crop=0.2)
    crops = {preprocess.train(path, f"0/0/{i}").tobytes() for i in range(50)}
    assert len(crops) == 50
    assert preprocess.train(path, "0/0/1").tobytes() == preprocess.train(path, "0/0/1").tobytes()


def test_normalize():
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    got = Preprocess(8).normalize(images)
    expected = torch.stack(
        [tv.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(x / 255) for x in images.permute(0, 3, 1, 2)]
    )
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_denormalize_undoes_normalize():
    for preprocess in (Preprocess(8), Preprocess(8, mean=(0.3,), std=(0.2,))):
        images = torch.randint(0, 256, (2, 8, 8, len(preprocess.mean)), dtype=torch.uint8)
        assert torch.equal(preprocess.denormalize(preprocess.normalize(images)), images)
    wide = Preprocess(8, mean=(0.5,) * 3, std=(0.5,) * 3).denormalize(torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1))
    assert wide.tolist() == [[[[0, 128, 255]]]]


def test_preprocess_of_old_checkpoints_and_wrong_values():
    old = {"image_size": 32, "min_crop": 0.25, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert Preprocess(**old) == Preprocess(**old, interpolation="bilinear", crop_pct=1.0)
    assert Preprocess(**Preprocess(**old, crop_pct=0.9).state_dict()) == Preprocess(**old, crop_pct=0.9)
    with pytest.raises(UsageError, match="Did you mean bicubic"):
        Preprocess(32, interpolation="bicubc")
    for crop_pct in (0, 1.1, -1):
        with pytest.raises(UsageError, match="crop_pct"):
            Preprocess(32, crop_pct=crop_pct)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_crop_pct_and_interpolation_are_those_of_torchvision(interpolation, tmp_path):
    y, x = np.mgrid[0:200, 0:300]
    pixels = np.stack([x * 0.8, y * 1.2, 127 + 60 * np.sin(x / 20)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    resize = tv.Resize(80, tv.InterpolationMode(interpolation))
    expected = np.asarray(tv.CenterCrop(60)(resize(Image.fromarray(pixels))), dtype=int)
    got = Preprocess(60, interpolation=interpolation, crop_pct=0.75).eval(tmp_path / "a.png").astype(int)
    assert np.abs(got - expected).mean() < 1


def test_unlabelled_ids(tmp_path):
    for name in ("10.jpg", "9.jpg", "cat.jpg", "002.png", "note.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1.jpg").touch()
    found, others = unlabelled.find(tmp_path)
    assert [name for name, _ in found] == ["002", "9", "10", "cat.jpg", "sub/1.jpg"]
    assert others == [tmp_path / "note.txt"]
    assert unlabelled.find(tmp_path / "9.jpg") == ([("9", tmp_path / "9.jpg")], [])
    assert unlabelled.find(tmp_path / "cat.jpg") == ([("cat.jpg", tmp_path / "cat.jpg")], [])
    (tmp_path / "9.png").touch()  # two images of one number go by their names
    ids = [name for name, _ in unlabelled.find(tmp_path)[0]]
    assert ids == ["002", "9.jpg", "9.png", "10", "cat.jpg", "sub/1.jpg"]


def test_nothing_to_label(tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="--test-data-root"):
            unlabelled.find(root)


def test_adding_a_data_set_is_adding_one_file(tmp_path):
    from utils import registry

    (tmp_path / "mine.py").write_text("class Mine(ImageData):\n    '''My images.'''\n")
    (tmp_path / "more.py").write_text("from data.mine import Mine\n\nclass More(Mine):\n    '''More of them.'''\n")
    assert list(registry.scan(Path(tmp_path), "ImageData")) == ["Mine", "More"]


def test_a_hint_of_one_set_is_not_worth_an_error_of_another(folders, monkeypatch):
    monkeypatch.setattr(data.Folder, "matches", lambda root: 1 / 0)
    with pytest.raises(UsageError, match="is no DogCat data set"):
        data.open("DogCat", folders)
