"""`check`: everything that is wrong or odd in a folder is named, and the exit code says whether a run would stop."""

import io
import os
import shutil
import struct
import sys
import zlib

import icc
import numpy as np
import pytest
from conftest import COUNT, picture, unless_given
from PIL import Image, ImageCms

from data.inspection import DAMAGED, inspect_image
from data.transforms import Preprocess
from utils.errors import RunError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest undoes data.reading's own filter
SMALL = ["--model=MNISTNet", "--num-workers=0", "--image-size=32", "--batch-size=8", "--use-gpu=false", "--amp=off"]


@pytest.fixture
def root(tmp_path):
    """12 clean cats and 12 clean dogs, all of them different."""
    root = tmp_path / "data"
    root.mkdir()
    for i in range(COUNT):
        picture(root / f"cat.{i}.jpg", (200, 9 * i, 30), (60, 50))
        picture(root / f"dog.{i}.jpg", (30, 9 * i, 200), (60, 50))
    return root


@pytest.fixture
def check(command, tmp_path):
    def run(root, *flags):
        return command(
            "check",
            f"--train-data-root={root}",
            f"--checkpoint-dir={tmp_path}/runs",
            *unless_given(SMALL, flags),
            *flags,
        )

    return run


def test_a_clean_folder(check, root, tmp_path):
    code, out, err = check(root)
    assert (code, err) == (0, "") and out.endswith("nothing here would stop a run\n")
    assert out.startswith(f"DogCat in {root}: 24 images (16 for training, 8 for validation), read in ")
    assert "cat 12, dog 12" in out and "50 to 50 pixels, median 50" in out
    assert "device       cpu, " in out and "MNISTNet, 8 images: loss 0." in out
    assert not any(word in out for word in ("odd", "left out", "duplicates", "unreadable", "note"))
    assert not (tmp_path / "runs").exists()


def bad_files(root):
    """Files that are no images, each with what is to be told of it."""
    whole = (root / "cat.0.jpg").read_bytes()

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def png(width, height, pixels):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")

    return {
        "cat.90.jpg": (whole[: len(whole) * 9 // 10], "truncated"),
        "cat.91.jpg": (b"", "the file is empty"),
        "dog.92.jpg": (b"<!DOCTYPE html><html>404</html>", "web page"),
        "dog.93.jpg": (b"some text", "no image format that Pillow knows"),
        "cat.94.png": (png(0, 0, b""), "damaged"),
        "cat.95.png": (png(30_000, 30_000, bytes(3751 * 30_000)), "too large"),
    }


@pytest.mark.slow
def test_unreadable_files_are_named_with_the_reason(check, root):
    bad = bad_files(root)
    for name, (content, _) in bad.items():
        (root / name).write_bytes(content)
    code, out, err = check(root)
    assert (code, err) == (1, "")
    assert "6 of 30:" in out and "6 unreadable images (remove them, or train with --on-bad-image=skip)" in out
    lines = [line.strip() for line in out.splitlines()]
    for name, (_, told) in bad.items():
        assert any(line.startswith(f"{name}: ") and told in line for line in lines), name
    code, out, _ = check(root, "--on-bad-image=skip")
    assert code == 0 and "6 of 30, each replaced by another of its class" in out


def test_skipping_needs_a_readable_image_of_each_class_in_each_part(check, root):
    for path in root.glob("dog.*"):
        path.write_bytes(b"")
    code, out, _ = check(root, "--on-bad-image=skip")
    assert code == 1
    assert "2 would stop a run: no readable image of dog for training; no readable image of dog for validation" in out


@pytest.mark.slow
def test_odd_images_are_read_and_named(check, root):
    image = Image.new("RGB", (60, 50), "orange")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert("CMYK").save(root / "cat.50.jpg")
    Image.fromarray(np.full((50, 60), 40_000, np.uint16)).save(root / "cat.51.png")
    image.quantize(8).save(root / "cat.52.png")
    image.convert("RGBA").save(root / "cat.53.png")
    image.save(root / "cat.54.jpg", exif=exif)
    image.save(root / "cat.55.gif", save_all=True, append_images=[Image.new("RGB", (60, 50))])
    image.convert("L").save(root / "cat.56.jpg")
    Image.new("1", (9600, 9600)).save(root / "dog.57.png")
    code, out, err = check(root)
    assert (code, err) == (0, "")
    for kind, name in {
        "1 CMYK": "cat.50.jpg",
        "1 16-bit": "cat.51.png",
        "2 palette": "cat.52.png",
        "1 transparent": "cat.53.png",
        "1 rotated by EXIF": "cat.54.jpg",
        "1 animated": "cat.55.gif",
        "2 grey": "cat.56.jpg",
        "1 huge": "dog.57.png",
    }.items():
        assert f"{kind}, as {name}" in out


def test_profiles_that_change_the_colours_are_counted(check, root):
    image, srgb = Image.new("RGB", (60, 50), "orange"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image.save(root / "cat.50.jpg", icc_profile=icc.rgb_profile(1.8))
    image.convert("L").save(root / "cat.51.png", icc_profile=icc.grey_profile(1.0))
    image.save(root / "cat.52.png", icc_profile=srgb.tobytes())
    image.save(root / "cat.53.jpg", icc_profile=b"broken")
    code, out, err = check(root)
    assert (code, err) == (0, "") and "2 colour profile, as cat.50.jpg" in out


RAMP = np.linspace(0, 1, 3000).reshape(50, 60)


@pytest.mark.parametrize(
    ("pixels", "name", "told"),
    [
        ((RAMP * 4095).astype(np.uint16), "cat.50.png", "6.2%"),
        ((RAMP * 255).astype(np.uint16), "cat.50.tif", "0.39%"),
        ((RAMP * 16383).astype(np.uint16), "cat.50.png", "25%"),
        ((RAMP * 65535).astype(np.int32), "cat.50.tif", "0.0031%"),
        ((RAMP * 0.1).astype(np.float32), "cat.50.tif", "10%"),
        ((RAMP * 65535).astype(np.uint16), "cat.50.png", None),
        ((RAMP * 255).astype(np.float32), "cat.50.tif", None),
        ((RAMP * 40).astype(np.uint8), "cat.50.png", None),
    ],
)
def test_a_part_of_the_range_is_named(pixels, name, told, check, root):
    Image.fromarray(pixels).save(root / name)
    Image.fromarray(pixels[::-1]).save(root / name.replace("50", "51"))
    code, out, err = check(root)
    assert (code, err) == (0, "")
    if told:
        assert f"2 dark: the brightest uses {told} of its range, as {name}" in out
    else:
        assert "dark" not in out


def photograph(seed, size=(160, 120)):
    """Something with detail everywhere."""
    coarse = np.random.default_rng(seed).integers(30, 220, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def ended_early(content, part):
    """Cut off at this part of the pixels' bytes, and ended as a whole file is."""
    start = content.index(b"\xff\xda") + 14
    return content[: start + int((len(content) - start) * part)].rstrip(b"\xff") + b"\xff\xd9"


def overwritten(content, part):
    """A marker in the middle of the pixels; all else is there."""
    start = content.index(b"\xff\xda") + 14
    middle = start + int((len(content) - start) * part)
    return content[:middle] + b"\xff\xd9" + content[middle + 2 :]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", [ended_early, overwritten])
@pytest.mark.parametrize(
    ("options", "mode", "part"),
    [
        ({}, "RGB", 0.5),
        ({}, "RGB", 0.8),
        ({}, "L", 0.5),
        ({}, "CMYK", 0.5),
        ({"subsampling": 0}, "RGB", 0.5),
        ({"restart_marker_rows": 2}, "RGB", 0.5),
        ({"progressive": True}, "RGB", 0.05),
        ({"icc_profile": icc.rgb_profile(1.8)}, "RGB", 0.5),
    ],
)
def test_a_jpeg_whose_pixels_end_early_is_named(options, mode, part, damage, seed, tmp_path):
    content = jpeg(photograph(seed).convert(mode), **options)
    for name, bad in (("whole.jpg", content), ("bad.jpg", damage(content, part))):
        (tmp_path / name).write_bytes(bad)
    assert DAMAGED not in inspect_image(tmp_path / "whole.jpg", 0, Preprocess(32)).kinds
    assert DAMAGED in inspect_image(tmp_path / "bad.jpg", 0, Preprocess(32)).kinds


def test_the_grey_of_missing_pixels_is_named_though_it_was_saved_again(check, root):
    image = photograph(0)
    image.paste((128, 128, 128), (0, 60, 160, 120))
    image.save(root / "cat.50.jpg")
    code, out, err = check(root)
    assert (code, err) == (0, "") and f"1 {DAMAGED}, as cat.50.jpg" in out


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 180, 40), (128, 128, 128)])
@pytest.mark.parametrize("rows", [8, 16, 64, 120])
def test_frames_and_plain_images_are_no_damage(rows, colour, progressive, tmp_path):
    image = photograph(0)
    image.paste(colour, (0, 120 - rows, 160, 120))
    if colour == (128, 128, 128) and rows == 64:
        pytest.skip("taken for damage")
    (tmp_path / "a.jpg").write_bytes(jpeg(image, progressive=progressive))
    assert DAMAGED not in inspect_image(tmp_path / "a.jpg", 0, Preprocess(32)).kinds


def test_what_no_rule_explains_is_listed(check, root):
    (root / "sub").mkdir()
    for name in ("bird.1.jpg", "cat.jpg", "sub/cat.1.jpg"):
        picture(root / name)
    for name in ("Thumbs.db", ".DS_Store", "notes.txt"):
        (root / name).write_text("x")
    (root / "dog.77.jpg").mkdir()
    (root / ".cache").mkdir()
    picture(root / ".cache" / "cat.9.jpg")
    code, out, _ = check(root)
    assert code == 0 and ": 24 images" in out
    assert "3 images whose label no rule of DogCat explains:\n" in out and "bird.1.jpg, cat.jpg, sub/cat.1.jpg" in out
    assert "2 files of no image format: Thumbs.db, notes.txt" in out


def test_images_beside_the_class_folders_are_left_out(check, folders, tmp_path):
    root = tmp_path / "folders"
    shutil.copytree(folders, root)
    picture(root / "stray.png")
    code, out, _ = check(root, "--dataset=Folder")
    assert code == 0 and "bird 12, cat 12, dog 12" in out
    assert "1 image whose label no rule of Folder explains:\n               stray.png" in out


def test_the_same_picture_twice(check, root, dogcat):
    from data.dataset import DogCat

    train, val = DogCat(root).split(0.3, 0)
    cats = {part: [path for path, label in items if label == 0] for part, items in (("train", train), ("val", val))}
    shutil.copy(cats["train"][0], cats["train"][1])
    shutil.copy(cats["train"][2], cats["val"][0])
    shutil.copy(cats["train"][3], root / "dog.0.jpg")
    code, out, _ = check(root, "--seed=0", "--val-fraction=0.3")
    assert code == 0
    assert f"1 with two labels, so one of them is wrong\n               {cats['train'][3].name} = dog.0.jpg\n" in out
    pair = " = ".join(sorted((cats["train"][2].name, cats["val"][0].name)))
    assert f"1 in training and in validation: accuracy flatters\n               {pair}\n" in out
    assert "1 within one part\n" in out


def test_imbalance_and_small_images(check, root):
    for i in range(2, COUNT):
        (root / f"dog.{i}.jpg").unlink()
    code, out, _ = check(root, "--image-size=64")
    assert code == 0 and "unbalanced, 6.0 times as many of cat as of dog" in out
    assert "14 are smaller than --image-size=64 and get enlarged" in out


def test_too_little_disk(check, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))
    code, out, _ = check(root, "--model=resnet18")
    assert code == 1 and "95 MiB free for " in out
    assert "too little disk for 4 checkpoints of 128 MiB" in out  # 11.2 million values, and Adam's two of each
    assert check(root, "--model=SqueezeNet", "--image-size=64", "--keep=1")[0] == 0


def test_a_step_that_fails(check, root, monkeypatch):
    from engine.tasks.classify import Classify

    def fail(self, batch):
        raise RunError("out of memory, in one line")

    monkeypatch.setattr(Classify, "train_step", fail)
    code, out, _ = check(root)
    assert code == 1 and "1 would stop a run: out of memory, in one line" in out


def test_a_mistake_is_told_as_everywhere(check, tmp_path, root):
    code, out, err = check(tmp_path / "nothing")
    assert (code, out) == (2, "") and "no folder" in err and err.count("\n") == 1
    code, _, err = check(root, "--image-size=16", "--model=AlexNet")
    assert code == 2 and err.count("\n") == 1


def test_a_look_tells_the_stored_size_and_the_bytes(root):
    first, again, other = (
        inspect_image(root / name, 0, Preprocess(16)) for name in ("cat.1.jpg", "cat.1.jpg", "cat.2.jpg")
    )
    assert first == again and first.digest != other.digest
    assert first.size == (60, 50) and first.kinds == () and first.problem is None
    (root / "cat.3.jpg").unlink()
    assert inspect_image(root / "cat.3.jpg", 0, Preprocess(16)).problem == "No such file or directory"


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
@pytest.mark.slow
def test_names_that_cannot_be_printed(check, command, root, tmp_path, tiny_run):
    bad, good = os.fsencode(root) + b"/cat.80.\xfe\n.jpg", os.fsencode(root) + b"/cat.81.\xfe.jpg"
    picture(root / "dog.80.jpg", (9, 9, 9)).rename(os.fsdecode(good))
    with open(bad, "w") as file:
        file.write("x")
    code, out, _ = check(root)
    assert code == 1 and "cat.80.\\udcfe\\n.jpg: no image format" in out
    flags = [f"--checkpoint-dir={tmp_path}/runs", "--max-epoch=1", "--vis-port=None", *SMALL]
    code, _, err = command("train", f"--train-data-root={root}", *flags)
    assert code == 2 and err.count("\n") == 1 and "cat.80.\\udcfe\\n.jpg cannot be read" in err
    os.unlink(bad)
    csv = tmp_path / "out.csv"
    flags = [f"--load-path={tiny_run}", f"--test-data-root={root}", f"--result-file={csv}", "--num-workers=0"]
    assert command("test", *flags, "--use-gpu=false")[0] == 0 and b"cat.81.\xfe.jpg," in csv.read_bytes()
