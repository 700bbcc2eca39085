"""The values of the pixels that training sees: reduced JPEGs, deep grey values, colour profiles."""

import io
import struct
import zlib

import icc
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from data.convert import uint8_images
from data.reading import read, rgb_image
from data.transforms import center_square
from utils.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest undoes data.reading's own filter


def values(path, side=8):
    """The grey values that training sees of a file, (side, side) int; the image must be grey."""
    got = read(path, side, lambda size: (0, 0, *size)).astype(int)
    assert (got == got[..., :1]).all()
    return got[..., 0]


# JPEGs decoded at 1/2, 1/4 and 1/8


def waves(width, height):
    """An image whose colours change fast enough to show a shift of a part of a pixel."""
    y, x = np.mgrid[:height, :width]
    channels = [128 + 100 * np.sin((x * a + y * b) / 9) for a, b in ((1, 0.3), (0.2, 1), (1, -1))]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


BOXES = {
    "the whole": lambda size: (0, 0, *size),
    "the middle": center_square,
    "the lower right": lambda size: (size[0] // 3, size[1] // 4, *size),
    "the upper left": lambda size: (0, 0, size[0] - size[0] // 3, size[1] - size[1] // 4),
}


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("turn", range(1, 10))  # 9 is none that there is
@pytest.mark.parametrize(
    ("size", "side", "most"), [((129, 161), 16, 2.5), ((129, 161), 18, 2), ((201, 97), 32, 0.8), ((145, 241), 12, 4)]
)
def test_a_reduced_jpeg_lies_where_the_whole_does(size, side, most, turn, box, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    waves(*size).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        whole = ImageOps.exif_transpose(image).convert("RGB")
    expected = whole.resize((side, side), Image.Resampling.BILINEAR, BOXES[box](whole.size))
    error = np.abs(read(tmp_path / "a.jpg", side, BOXES[box]).astype(int) - np.asarray(expected)).mean()
    assert error < most


def test_an_image_in_memory_is_read_whole_and_stays_so(tmp_path):
    """A data set may keep an image that it has opened, and not yet loaded."""
    for name in ("a.jpg", "a.tif"):
        exif = Image.Exif()
        exif[0x0112] = 6
        waves(200, 120).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            read(image, 16, center_square)
            assert set(image.size) == {200, 120}
        with Image.open(tmp_path / name) as image:
            got = read(image, 120, center_square).astype(int)
        assert np.abs(got - read(tmp_path / name, 120, center_square)).max() <= 1


# Grey values of more than 8 bits


def tiff(values, bits, kind=1, photometric=1, order="<"):
    """An uncompressed grey TIFF, built by hand.

    Args:
        kind: 1: unsigned, 2: signed, 3: float.
        photometric: 1: black is zero, 0: white is zero.
    """
    rows = np.asarray(values)
    height, width = rows.shape
    if bits == 12:
        pairs = rows.reshape(height, -1, 2)
        packed = [pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255]
        data = np.stack(packed, -1).astype(np.uint8).tobytes()
    else:
        data = rows.astype(f"{order}{' uif'[kind]}{bits // 8}").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: kind}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def pgm(rows, most):
    rows = np.asarray(rows)
    return b"P5 %d %d %d\n" % (*rows.shape[::-1], most) + rows.astype(">u2" if most > 255 else "u1").tobytes()


def png(values, bits, colours=0, clear=b""):
    """A PNG of `bits` for each channel, built by hand; `clear`: the tRNS chunk."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = np.asarray(values)
    if bits < 8:
        each = 8 // bits
        parts = rows.reshape(rows.shape[0], -1, each) << (bits * np.arange(each)[::-1])
        lines = parts.sum(-1).astype(np.uint8)
    else:
        lines = rows.astype(">u2" if bits == 16 else "u1")
    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, colours, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    clear = chunk(b"tRNS", clear) if clear else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + clear + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def saved(array, name):
    file = io.BytesIO()
    Image.fromarray(array).save(file, name)
    return file.getvalue()


RAMP = np.arange(64).reshape(8, 8) / 63  # from black to white
DIM = RAMP / 16  # uses a sixteenth of the range


@pytest.mark.parametrize("part", [1, 1 / 2, 1 / 16, 1 / 256])
@pytest.mark.parametrize(
    ("write", "top"),
    [
        (lambda v: png(v, 16), 65535),
        (lambda v: pgm(v, 65535), 65535),
        (lambda v: pgm(v, 4095), 4095),
        (lambda v: pgm(v, 1000), 1000),
        (lambda v: b"P2 8 8 4095\n" + " ".join(map(str, v.flat)).encode(), 4095),
        (lambda v: tiff(v, 12), 4095),
        (lambda v: tiff(v, 16), 65535),
        (lambda v: tiff(v, 16, order=">"), 65535),
        (lambda v: tiff(v, 16, 2), 32767),
        (lambda v: tiff(v, 32), 2**32 - 1),
        (lambda v: tiff(v, 32, 2), 2**31 - 1),
        (lambda v: tiff(v, 32, 2, order=">"), 2**31 - 1),
        (lambda v: saved(v.astype(np.uint16), "TIFF"), 65535),
        (lambda v: saved(v.astype(np.int32), "TIFF"), 2**31 - 1),
        (lambda v: saved(v.astype(np.uint16), "JPEG2000"), 65535),
        (lambda v: saved(v.astype(np.uint16), "IM"), 65535),
    ],
)
def test_what_is_white_follows_from_the_format(write, top, part, tmp_path):
    """And not from the brightest pixel of the image: an image that uses a part of its range stays dark."""
    whole = np.rint(RAMP * part * top).astype(np.int64)
    (tmp_path / "a").write_bytes(write(whole))
    assert np.abs(values(tmp_path / "a") - whole * 255 / top).max() <= 1


@pytest.mark.parametrize(("bits", "kind", "top"), [(8, 1, 255), (16, 1, 65535), (32, 3, 1)])
@pytest.mark.parametrize("order", "<>")
def test_a_tiff_whose_zero_is_white(bits, kind, top, order, tmp_path):
    if (bits, order) == (16, ">"):
        pytest.skip("Pillow reads none")
    stored = RAMP * top if kind == 3 else np.rint(RAMP * top)
    (tmp_path / "a.tif").write_bytes(tiff(stored, bits, kind, photometric=0, order=order))
    assert np.abs(values(tmp_path / "a.tif") - (255 - RAMP * 255)).max() <= 1


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_uncompressed_tiff_is_turned(dtype, turn, tmp_path):
    """Pillow maps such a file into memory, if it is given the path, with rows as long as those of the turned image."""
    shown = np.rint(RAMP[:5] * 250)  # 5 rows of 8
    undo = ["", "h", "hv", "v", "t", "tv", "thv", "th"][turn - 1]
    stored = shown
    for flip in undo:
        stored = {"h": stored[:, ::-1], "v": stored[::-1], "t": stored.T}[flip]
    exif = Image.Exif()
    exif[0x0112] = turn
    scaled = np.ascontiguousarray(stored * {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]).astype(dtype)
    Image.fromarray(scaled).save(tmp_path / "a.tif", exif=exif)
    got = np.asarray(rgb_image(tmp_path / "a.tif"))[..., 0]
    assert got.shape == shown.shape and np.abs(got - shown).max() <= 1


def test_values_below_zero_are_black(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.where(RAMP < 0.5, -9000, 20000), 16, 2))
    assert np.abs(values(tmp_path / "a.tif") - np.where(RAMP < 0.5, 0, 20000 * 255 / 32767)).max() <= 1


FLOATS = {
    "one pixel a little above 1": (1, 1.000001),
    "one pixel far above 1": (1, 900.0),
    "one pixel below 0": (1, -3.0),
    "0 to 255": (255, 255.0),
    "0 to 255, one pixel above": (255, 300.0),
    "0 to 65535": (65535, 65535.0),
    "one pixel infinite": (1, np.inf),
    "one pixel no number": (1, np.nan),
}


@pytest.mark.parametrize("case", FLOATS)
@pytest.mark.parametrize("name", ["a.tif", "a.pfm", "a.im", "memory"])
def test_floats_are_read_by_the_range_of_most(case, name, tmp_path):
    top, odd = FLOATS[case]
    stored = (RAMP * top).astype(np.float32)
    stored[4, 4] = odd
    image = Image.fromarray(stored)
    if name != "memory":
        image.save(tmp_path / name)
    got = values(image if name == "memory" else tmp_path / name)
    expected = RAMP * 255
    expected[4, 4] = min(max(odd / top, 0), 1) * 255 if np.isfinite(odd) else 0
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("odd", [1.000001, 1.0005, -1e-6])
def test_floats_of_an_array_may_be_rounded(odd):
    stored = RAMP.astype(np.float32)
    stored[4, 4] = odd
    expected = np.rint(stored.clip(0, 1) * 255)
    assert (uint8_images(stored[None], "one")[0, ..., 0] == expected).all()


@pytest.mark.parametrize("odd", [1.01, -0.01, 255, np.nan])
def test_floats_of_an_array_are_in_0_to_1(odd):
    stored = RAMP.astype(np.float32)
    stored[4, 4] = odd
    with pytest.raises(UsageError, match="holds floats from"):
        uint8_images(stored[None], "one")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_grey_that_a_png_calls_transparent_is_white(bits, tmp_path):
    top = 2**bits - 1
    stored = np.rint(RAMP * top).astype(int)
    stored[:4] = clear = top // 3
    (tmp_path / "a.png").write_bytes(png(stored, bits, clear=struct.pack(">H", clear)))
    assert np.abs(values(tmp_path / "a.png") - np.where(stored == clear, 255, stored * 255 / top)).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_the_colour_that_a_png_calls_transparent_is_white(bits, tmp_path):
    scale = 257 if bits == 16 else 1
    stored = np.full((8, 8, 3), (10, 20, 30)) * scale
    stored[:, 4:] = np.array((200, 100, 50)) * scale
    clear = struct.pack(">HHH", *stored[0, 0].tolist())
    (tmp_path / "a.png").write_bytes(png(stored, bits, colours=2, clear=clear))
    got = read(tmp_path / "a.png", 8, center_square)
    assert (got[:, :4] == 255).all() and (got[:, 4:] == (200, 100, 50)).all()


# Colour profiles


def to_srgb(linear):
    """IEC 61966-2-1."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def by_hand(colours, gamma, primaries):
    """Colours (..., 3), 0 to 255, of a screen of that gamma and those primaries, in sRGB."""
    linear = (np.asarray(colours) / 255) ** gamma @ np.array(primaries) @ np.linalg.inv(np.array(icc.SRGB_PRIMARIES))
    return to_srgb(linear.clip(0, 1))


COLOURS = np.array([[60, 80, 200], [128, 128, 128], [90, 140, 60], [180, 120, 100]])


def patches(mode):
    """Squares of COLOURS in one row, 32 pixels each."""
    image = Image.fromarray(np.kron(COLOURS[None].astype(np.uint8), np.ones((32, 32, 1), np.uint8)))
    return image.convert(mode)


def seen(path):
    """The colours of the squares, as training sees them."""
    got = read(path, 16, lambda size: (0, 0, *size)).astype(int)
    return got[8, 2::4]


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("primaries", ["SRGB", "ADOBE"])
def test_colours_are_converted_from_their_profile(name, gamma, primaries, tmp_path):
    primaries = getattr(icc, f"{primaries}_PRIMARIES")
    profile = icc.rgb_profile(gamma, primaries)
    options = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    patches("RGB").save(tmp_path / name, icc_profile=profile, **options)
    expected = by_hand(COLOURS, gamma, primaries)
    assert np.abs(seen(tmp_path / name) - expected).max() <= 4
    whole = np.asarray(rgb_image(tmp_path / name)).astype(int)[16, 16::32]
    assert np.abs(whole - expected).max() <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_is_converted_from_its_profile(mode, tmp_path):
    image = patches("L" if mode == "I;16" else mode)
    grey = np.asarray(patches("L"))[16, 16::32]
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
    image.save(tmp_path / "a.png", icc_profile=icc.grey_profile(1.0))
    assert np.abs(seen(tmp_path / "a.png") - to_srgb(grey / 255)[:, None]).max() <= 3


@pytest.mark.parametrize("mode", ["P", "RGBA", "L"])
def test_colours_of_other_modes_are_converted_too(mode, tmp_path):
    image = patches("RGB").quantize(16) if mode == "P" else patches(mode)
    stored = np.asarray(image.convert("RGB"))[16, 16::32]
    image.save(tmp_path / "a.png", icc_profile=icc.rgb_profile(1.0))
    assert np.abs(seen(tmp_path / "a.png") - by_hand(stored, 1.0, icc.SRGB_PRIMARIES)).max() <= 3


def test_what_is_half_transparent_is_converted_before_it_is_put_on_white(tmp_path):
    image = patches("RGBA")
    image.putalpha(128)
    image.save(tmp_path / "a.png", icc_profile=icc.rgb_profile(1.0))
    expected = (by_hand(COLOURS, 1.0, icc.SRGB_PRIMARIES) + 255) / 2
    assert np.abs(seen(tmp_path / "a.png") - expected).max() <= 3


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_ink_is_converted_by_its_profile(name, tmp_path):
    profile = icc.ink_profile(lambda *ink: 100 - 100 * max(ink))  # cyan is as dark as black
    for ink, light in {(0, 0, 0, 0): 100, (128, 0, 0, 0): 49.8, (0, 0, 192, 0): 24.7, (255, 0, 0, 0): 0}.items():
        Image.new("CMYK", (64, 64), ink).save(tmp_path / name, icc_profile=profile, quality=100)
        linear = ((light + 16) / 116) ** 3 if light > 8 else light / 903.3  # CIE 1976
        assert np.abs(seen(tmp_path / name) - to_srgb(linear)).max() <= 4


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
USELESS = {
    "sRGB": SRGB,
    "nothing": b"",
    "no profile": b"a profile" * 50,
    "cut off": icc.rgb_profile(1.0)[:200],
    "zeros": bytes(3000),
    "of ink": icc.ink_profile(lambda *ink: 50),
    "of grey": icc.grey_profile(1.0),
    "of Lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
}


@pytest.mark.parametrize("case", USELESS)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_a_profile_that_cannot_be_used_changes_nothing(case, name, tmp_path):
    waves(60, 60).save(tmp_path / f"plain_{name}")
    waves(60, 60).save(tmp_path / name, icc_profile=USELESS[case])
    assert (read(tmp_path / name, 60, center_square) == read(tmp_path / f"plain_{name}", 60, center_square)).all()


def test_an_image_is_converted_once(tmp_path):
    """What `rgb_image` gives is in sRGB, so reading it again must not convert it again."""
    patches("RGB").save(tmp_path / "a.png", icc_profile=icc.rgb_profile(1.0))
    once = rgb_image(tmp_path / "a.png")
    assert (np.asarray(rgb_image(once)) == np.asarray(once)).all()


@pytest.mark.parametrize("damage", range(0, 484, 12))
def test_whatever_is_wrong_in_a_profile_the_image_is_read(damage, tmp_path):
    profile = bytearray(icc.rgb_profile(1.0))
    profile[damage : damage + 4] = b"\xff\xff\xff\xff"
    waves(20, 20).save(tmp_path / "a.png", icc_profile=bytes(profile))
    try:
        read(tmp_path / "a.png", 16, center_square)
    except UsageError:
        pytest.fail("a damaged profile is ignored")
