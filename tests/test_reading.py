"""Image files of every kind: odd ones are read as a viewer shows them, broken ones end in one plain line."""

import io
import os
import random
import warnings

import numpy as np
import pytest
from PIL import Image, features

from data.reading import read
from data.transforms import Preprocess, center_square
from utils.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest undoes data.reading's own filter

RED, BLUE, WHITE = (230, 20, 20), (20, 20, 230), (255, 255, 255)


def halves(size=(64, 48)):
    """The left half is red, the right half blue."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image


def corners(path):
    """The colours near the upper left and the lower right corner of what training sees."""
    got = Preprocess(32).eval(path)
    return tuple(got[3, 3].tolist()), tuple(got[-4, -4].tolist())


def close(colours, expected, tolerance=12):
    return np.abs(np.array(colours) - np.array(expected)).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_every_exif_orientation_is_read_upright(orientation, name, tmp_path):
    upright = Image.fromarray(np.kron(np.arange(12).reshape(3, 4), np.ones((160, 160))).astype(np.uint8) * 20)
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # PIL's Transpose that brings about the orientation
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    stored.convert("RGB").save(tmp_path / name, exif=exif)
    upright.convert("RGB").save(tmp_path / f"upright_{name}")
    got, expected = (Preprocess(40).eval(tmp_path / n).astype(int) for n in (name, f"upright_{name}"))
    assert np.abs(got - expected).max() < 12


def test_damaged_exif_data_are_no_hindrance(tmp_path):
    for junk in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40,
    ):
        halves().save(tmp_path / "a.jpg", exif=junk)
        assert close(corners(tmp_path / "a.jpg"), (RED, BLUE))


@pytest.mark.parametrize(
    ("mode", "name"), [("RGBA", "a.png"), ("RGBA", "a.webp"), ("LA", "a.png"), ("P", "a.png"), ("P", "a.gif")]
)
def test_what_shows_through_transparency_is_white(mode, name, tmp_path):
    image = halves().convert("RGBA")
    image.paste((255, 0, 0, 0), (0, 0, 32, 48))  # a red that no viewer shows
    if mode == "P":
        image = halves().quantize(16)
        image.info["transparency"] = image.getpixel((0, 0))
    image = image.convert(mode) if mode == "LA" else image
    image.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    left, right = corners(tmp_path / name)
    assert close(left, WHITE)
    assert close(right, BLUE if mode != "LA" else [int(np.asarray(halves().convert("L"))[0, -1])] * 3)


def test_half_transparent_is_half_white(tmp_path):
    image = halves()
    image.putalpha(128)
    image.save(tmp_path / "a.png")
    assert close(corners(tmp_path / "a.png"), [[(c + 255) / 2 for c in colour] for colour in (RED, BLUE)])


def test_palette_with_a_transparency_for_each_colour_warns_of_nothing(tmp_path):
    halves().quantize(16).save(tmp_path / "a.png", transparency=bytes([255] * 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert close(corners(tmp_path / "a.png"), (RED, BLUE))


def test_cmyk_is_read_as_ink(tmp_path):
    halves().convert("CMYK").save(tmp_path / "a.jpg", quality=95)  # inverted, with Adobe's marker, as Photoshop's
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    halves().convert("CMYK").save(tmp_path / "a.tif")
    assert close(corners(tmp_path / "a.jpg"), (RED, BLUE), 25) and close(corners(tmp_path / "a.tif"), (RED, BLUE))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_gives_its_first_frame(name, tmp_path):
    halves().save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", (64, 48), "green")])
    assert close(corners(tmp_path / name), (RED, BLUE))


def test_floats_that_are_no_numbers_are_black(tmp_path):
    values = np.full((20, 20), 0.5, np.float32)
    values[:5] = np.nan
    values[-5:] = np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    got = Preprocess(20).eval(tmp_path / "a.tif")
    assert got[:5].max() == 0 and set(got[6:14].flat) <= {127, 128}


def bomb(path, side):
    Image.new("1", (side, side)).save(path)


@pytest.mark.slow
def test_a_large_image_is_read_and_a_bomb_is_refused(tmp_path):
    bomb(tmp_path / "large.png", 9600)  # Pillow would warn
    bomb(tmp_path / "bomb.png", 30_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert Preprocess(8).eval(tmp_path / "large.png").max() == 0
    with pytest.raises(UsageError, match=r"bomb\.png cannot be read: it is too large: .*900000000 pixels"):
        Preprocess(8).eval(tmp_path / "bomb.png")


def test_no_word_of_pillow_reaches_the_terminal(command, tmp_path, tiny_run):
    (tmp_path / "in").mkdir()
    bomb(tmp_path / "in" / "large.png", 9600)
    halves().quantize(16).save(tmp_path / "in" / "a.png", transparency=bytes([255] * 16))
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("ignore", module="PIL")  # pytest shows all
        flags = [
            f"--load-path={tiny_run}",
            f"--test-data-root={tmp_path}/in",
            f"--result-file={tmp_path}/o.csv",
        ]
        code, _, err = command("test", *flags, "--num-workers=0", "--use-gpu=false")
    assert code == 0 and not err and not [w for w in caught if "PIL" in w.filename]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE HTML>\n<p>404", "it is a web page (HTML)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no image format that Pillow knows"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "no image format that Pillow knows, or damaged"),
    ],
)
def test_why_a_file_is_no_image(content, told, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UsageError) as error:
        read(tmp_path / "a.jpg", 8, center_square)
    assert str(error.value).startswith(f"image {tmp_path / 'a.jpg'} cannot be read: {told}")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.tif", "a.webp", "a.ppm"])
def test_a_file_cut_off_is_never_taken_for_whole(name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UsageError, match="cannot be read: "):
        read(tmp_path / name, 8, center_square)


def test_places_that_may_not_be_read(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read(tmp_path / "a.jpg", 8, center_square)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read(tmp_path / "b.jpg", 8, center_square)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    halves().save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").chmod(0)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        read(tmp_path / "a.jpg", 8, center_square)


@pytest.mark.slow
def test_whatever_the_damage_it_is_one_line(tmp_path):
    """Bytes changed, or cut off, at random places of files of all formats: an array, or a UsageError."""
    rng, whole = random.Random(0), []
    modes = {
        "JPEG": ["RGB", "L", "CMYK"],
        "PNG": ["RGB", "RGBA", "P", "LA", "1"],
        "GIF": ["P"],
        "BMP": ["RGB", "P"],
        "TIFF": ["RGB", "CMYK", "F", "LAB"],
        "PPM": ["RGB", "L"],
    }
    modes |= {"WEBP": ["RGB", "RGBA"]} if features.check("webp") else {}
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, mode in ((kind, mode) for kind, names in modes.items() for mode in names):
        file, image = io.BytesIO(), halves((30, 20))
        image = Image.new("LAB", (30, 20)) if mode == "LAB" else image.convert(mode)
        image.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
        whole.append(file.getvalue())
    read_, refused = 0, 0
    for _ in range(800):
        content = bytearray(rng.choice(whole))
        if rng.random() < 0.2:
            content = content[: rng.randrange(len(content))]
        for _ in range(rng.choice([1, 2, 5, 20])):
            if content:
                content[min(int(rng.expovariate(1 / 60)), len(content) - 1)] = rng.randrange(256)
        (tmp_path / "a").write_bytes(content)
        try:
            got = read(tmp_path / "a", 16, center_square)
            assert got.shape == (16, 16, 3) and got.dtype == np.uint8
            read_ += 1
        except UsageError as e:
            assert "\n" not in str(e) and str(e).startswith(f"image {tmp_path / 'a'} cannot be read: ")
            refused += 1
    assert read_ > 100 and refused > 100
