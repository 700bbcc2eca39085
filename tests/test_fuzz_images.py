"""Every format and mode that Pillow can write is read as worked out by hand, and whatever the damage, in one line.

FUZZ_SEED chooses other images and damage, FUZZ_CASES how much of it:

    FUZZ_SEED=7 FUZZ_CASES=20000 python -m pytest tests/test_fuzz_images.py
"""

import io
import os
import random
import struct
import time
import zlib

import icc
import numpy as np
import pytest
from PIL import Image, ImageCms, features

from data.reading import read
from data.transforms import center_square as middle
from utils.errors import UsageError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # Pillow's words about odd files; numpy's cannot be told from them
SEED, CASES = int(os.environ.get("FUZZ_SEED", "0")), int(os.environ.get("FUZZ_CASES", "500"))
SLOW = 5  # seconds that no small file may take

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F"]
SIZES = [(1, 1), (1, 9), (17, 1), (7, 5), (33, 29), (65, 48)]
NO_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "PALM", "PDF", "WMF"}  # stubs, drawings, and what Pillow only writes
Image.init()
FORMATS = sorted(set(Image.SAVE) & set(Image.OPEN) - NO_PIXELS)


def orientated(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


# Ways to save, beside the plain one: format, options, modes (None: all)
WAYS = [
    *(("JPEG", options, None) for options in ({"progressive": True}, {"restart_marker_blocks": 1}, {"optimize": True})),
    *(("JPEG", {"exif": orientated(turn)}, ["RGB"]) for turn in range(1, 9)),
    *(("PNG", {"exif": orientated(turn)}, ["RGB", "P"]) for turn in (3, 6)),
    *(("WEBP", {"exif": orientated(turn), "lossless": True}, ["RGB"]) for turn in (5, 8)),
    *(("TIFF", {"exif": orientated(turn)}, ["RGB", "I;16"]) for turn in (2, 7)),
    *(("PNG", {"transparency": value}, ["1", "L", "I;16", "P"]) for value in (0, 255)),
    ("PNG", {"transparency": (9, 9, 9)}, ["RGB"]),
    ("PNG", {"bits": 4}, ["P"]),
    ("PNG", {"bits": 2}, ["P"]),
    ("GIF", {"transparency": 3}, ["P"]),
    ("GIF", {"interlace": 0}, ["P", "L"]),
    *(
        ("TIFF", {"compression": name}, None)
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "group3", "group4", "jpeg", "tiff_lzma", "zstd")
        if features.check("libtiff")
    ),
    ("TIFF", {"tiffinfo": {262: 0}}, ["1", "L"]),
    ("TIFF", {"big_tiff": True}, None),
    ("WEBP", {"lossless": True}, None),
    ("JPEG2000", {"irreversible": True}, ["RGB"]),
    ("TGA", {"compression": "tga_rle"}, None),
    ("BMP", {}, ["1", "L", "P", "RGB", "RGBA"]),
    *((name, {"icc_profile": icc.rgb_profile(1.8)}, ["RGB"]) for name in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")),
    *((name, {"icc_profile": icc.grey_profile(1.0)}, ["L"]) for name in ("JPEG", "PNG", "TIFF")),
    *(
        (name, {"icc_profile": icc.ink_profile(lambda *ink: 100 - 25 * sum(ink))}, ["CMYK"])
        for name in ("JPEG", "TIFF")
    ),
    *((name, {"icc_profile": b"none"}, ["RGB", "L", "P"]) for name in ("JPEG", "PNG", "TIFF")),
]
ALL = [(name, options, mode) for name, options, modes in WAYS for mode in modes or MODES]
ALL = [(name, {}, mode) for name in FORMATS for mode in MODES] + [way for way in ALL if way[0] in FORMATS]


def picture(mode, size, rng):
    """Waves, in all values of the mode."""
    y, x = np.mgrid[: size[1], : size[0]] / 64
    waves = [np.sin(rng.uniform(3, 9) * x + rng.uniform(3, 9) * y + rng.uniform(0, 6)) / 2 + 0.5 for _ in range(4)]
    if mode in ("I", "I;16", "I;16B", "F"):
        kind = {"I": "i4", "I;16": "<u2", "I;16B": ">u2", "F": "f4"}[mode]
        return Image.fromarray((waves[0] * (1 if mode == "F" else 65535)).astype(kind))
    bands = [Image.fromarray((wave * 255).astype(np.uint8)) for wave in waves]
    if mode in ("1", "L"):
        return bands[0].convert(mode)
    if mode in ("P", "PA"):
        return Image.merge("RGB", bands[:3]).quantize(16).convert(mode)
    return Image.merge(mode, bands[: len(Image.getmodebands(mode) * [0])])


def expected(content):
    """(H, W, 3) float: the pixels in sRGB, on white, upright, from the stored values by textbook formulas."""
    with Image.open(io.BytesIO(content)) as image:
        tags = dict(getattr(image, "tag_v2", {}))
        image.load()
        turn = 1 if image.format == "TIFF" else image.getexif().get(0x0112, 1)
        profile, clear = image.info.get("icc_profile"), image.info.get("transparency")
        stored, alpha = np.asarray(image), None
        if image.mode in ("P", "PA"):
            palette = np.array(image.getpalette("RGBA")).reshape(-1, 4).astype(float)
            palette = np.concatenate([palette, np.zeros((256 - len(palette), 4))])
            if isinstance(clear, bytes):
                palette[: len(clear), 3] = list(clear)
            index = stored[..., 0] if image.mode == "PA" else stored
            pixels, alpha = palette[index][..., :3], palette[index][..., 3]
            alpha = stored[..., 1] if image.mode == "PA" else np.where(index == clear, 0, alpha)
        elif image.mode == "LAB":  # a D50 white; Pillow has signed a and b as bytes
            with Image.open(io.BytesIO(content)) as again:
                lab = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
                pixels = np.asarray(ImageCms.profileToProfile(again, *lab, outputMode="RGB"))
        else:
            pixels, alpha = by_mode(image.mode, stored.astype(float), tags)
            if clear is not None:
                alpha = np.where((stored.reshape(*stored.shape[:2], -1) == clear).all(-1), 0, 255)
                alpha = np.where(stored * 255 == clear, 0, 255) if image.mode == "1" else alpha
        if profile and profile != b"none":
            source, target = ImageCms.getOpenProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            pixels = np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))
    if alpha is not None:
        pixels = 255 + (pixels - 255) * np.asarray(alpha, dtype=float)[..., None] / 255
    flips = {1: "", 2: "h", 3: "hv", 4: "v", 5: "t", 6: "vt", 7: "hvt", 8: "ht"}
    for flip in flips[turn]:
        pixels = {"h": pixels[:, ::-1], "v": pixels[::-1], "t": pixels.transpose(1, 0, 2)}[flip]
    return pixels


def by_mode(mode, stored, tags):
    """Colours (H, W, 3) and alpha of stored values; each mode by its definition."""
    alpha = stored[..., -1] if mode in ("LA", "RGBA") else None
    if mode == "1":
        stored = stored * 255
    if mode[0] == "I":
        stored = stored * 255 / (65535 if tags.get(258, (16,))[0] == 16 else 2**31 - 1)
    if mode == "F":
        lit = stored[stored > 0]
        most_above = [lit.size and (lit > level).mean() > 0.5 for level in (1, 255)]
        stored = stored / 257 if most_above[1] else stored if most_above[0] else stored * 255
    if stored.ndim == 2 or mode == "LA":
        grey = stored if stored.ndim == 2 else stored[..., 0]
        return np.repeat(grey.clip(0, 255)[..., None], 3, -1), alpha
    if mode == "CMYK":
        return (255 - stored[..., :3]) * (255 - stored[..., 3:]) / 255, None
    if mode == "YCbCr":  # ITU-T T.871
        y, cb, cr = stored[..., 0], stored[..., 1] - 128, stored[..., 2] - 128
        return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255), None
    if mode == "HSV":
        h, s, v = np.moveaxis(stored, -1, 0) / 255
        turned = [(n + h * 6) % 6 for n in (5, 3, 1)]
        return np.stack([255 * v * (1 - s * np.minimum(k, 4 - k).clip(0, 1)) for k in turned], -1), None
    return stored[..., :3], alpha


def written(name, options, mode, size, rng):
    """The bytes of a file, or None if Pillow does not write, or not read again, this mode in this way."""
    file = io.BytesIO()
    try:
        picture(mode, size, rng).save(file, name, **options)
        with Image.open(io.BytesIO(file.getvalue())) as image:
            image.load()
    except Exception:
        return None
    return file.getvalue()


def whole(size):
    return 0, 0, *size


def test_every_format_and_mode_is_read_as_it_is_defined(tmp_path):
    seen, wrong = set(), []
    for number, (name, options, mode) in enumerate(ALL):
        for size in SIZES if name != "ICNS" else SIZES[-1:]:  # which has a million pixels whatever the size
            rng = random.Random(f"{SEED}/{number}/{size}")
            if (content := written(name, options, mode, size, rng)) is None:
                continue
            (tmp_path / "a").write_bytes(content)
            pixels = expected(content)
            bands = [Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(pixels, -1, 0)]
            side, choose_box = rng.choice([8, 40]), whole
            if "icc_profile" in options:  # colours are converted after resizing, so leave that out
                side, choose_box = min(bands[0].size), middle
            box = choose_box(bands[0].size)
            resized = np.stack([np.asarray(band.resize((side, side), 2, box)) for band in bands], -1)
            try:
                error = np.abs(read(tmp_path / "a", side, choose_box) - resized)
            except UsageError as e:
                wrong.append(f"{name} {mode} {size}, {options}: {e}")
                continue
            seen.add((name, mode))
            lossy = name in ("JPEG", "MPO", "JPEG2000", "AVIF", "WEBP") or "icc_profile" in options
            few, most = (8, 60) if name in ("JPEG", "MPO") and side == 8 else (3, 25) if lossy else (1.5, 4)
            if error.mean() > few or error.max() > most:
                wrong.append(f"{name} {mode} {size} to {side}, {options}: {error.mean():.1f} {error.max():.1f}")
    assert len(seen) > 60
    assert not wrong, "\n".join(wrong)


ADAM7 = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
]  # x, y, steps


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mode", "colours", "bits"), [("L", 0, 8), ("RGB", 2, 8), ("RGBA", 6, 8), ("I;16", 0, 16)])
def test_an_interlaced_png_is_read_as_the_plain_one(mode, colours, bits, size, tmp_path):
    """Pillow writes none: ISO/IEC 15948, 8.2."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    image = picture(mode, size, random.Random(SEED))
    image.save(tmp_path / "plain.png")
    rows = np.asarray(image).reshape(size[1], size[0], -1).astype(f">u{bits // 8}")
    passes = [rows[y::down, x::right] for x, y, right, down in ADAM7]
    data = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, 1))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    assert (read(tmp_path / "a.png", 16, whole) == read(tmp_path / "plain.png", 16, whole)).all()


def damaged(content, rng):
    content = bytearray(content)
    kind = rng.choice(["cut", "early", "anywhere", "zeros", "twice", "length"])
    if kind == "cut":
        return bytes(content[: rng.randrange(len(content))])
    start, count = rng.randrange(len(content)), rng.choice([1, 2, 8, 64])
    if kind == "zeros":
        content[start : start + count] = bytes(len(content[start : start + count]))
    elif kind == "twice":
        content[start:start] = content[start : start + count]
    elif kind == "length":
        content[start : start + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"])
    else:
        for _ in range(rng.choice([1, 2, 5, 20])):
            at = min(int(rng.expovariate(1 / 60)), len(content) - 1) if kind == "early" else rng.randrange(len(content))
            content[at] = rng.randrange(256)
    return bytes(content)


def test_whatever_the_damage_it_is_read_or_refused_in_one_line(tmp_path):
    rng, files, path = random.Random(SEED), [], tmp_path / "a"
    for name, options, mode in ALL:
        if (content := written(name, options, mode, (33, 29), rng)) is not None:
            files.append((name, mode, content))
    outcomes = {"read": 0, "refused": 0}
    for case in range(CASES):
        name, mode, content = rng.choice(files)
        path.write_bytes(damaged(content, rng))
        start, where = time.monotonic(), f"case {case} of FUZZ_SEED={SEED}: {name} {mode}"
        try:
            got = read(path, 16, whole)
            assert got.shape == (16, 16, 3) and got.dtype == np.uint8, where
            outcomes["read"] += 1
        except UsageError as e:
            assert "\n" not in str(e) and str(e).startswith(f"image {path} cannot be read: "), where
            outcomes["refused"] += 1
        except Exception as e:
            pytest.fail(f"{where}: {type(e).__name__}: {e}")
        assert time.monotonic() - start < SLOW, where
    assert min(outcomes.values()) > CASES / 20
