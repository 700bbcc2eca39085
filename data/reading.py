"""From an image file to RGB pixels: every format and mode that Pillow knows, upright, on white, or one plain line."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.errors import RunError, Stopped, UsageError
from utils.files import printable

ORIENTATION = 0x0112  # EXIF tag: 1 is upright; what undoes the others:
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = {5, 6, 7, 8}
WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body")
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

# What Pillow says of odd but valid images; `check` reports them.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read(path: Path, side: int, pick: Callable[[tuple[int, int]], Box]) -> np.ndarray:
    """Decodes the box of an image that `pick` chooses from (width, height), scaled to (side, side, 3) uint8, RGB.

    The box is chosen from the file's header, before decoding: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its
    size where that still has a pixel for each one wanted (libjpeg's DCT scaling). An animation gives its first frame.

    Raises:
        UsageError: the file cannot be read as an image; path and reason in one line.
    """
    with told(path):
        image = Image.open(path)
    with image:
        if image.format not in ("JPEG", "MPO"):  # a PNG's EXIF data follow its pixels, a TIFF is turned as it loads
            with told(path):
                image.load()
        turn = orientation(image)
        order = -1 if turn in SWAPS_SIDES else 1
        width, height = image.size[::order]
        left, top, right, bottom = pick((width, height))
        wanted = math.ceil(width * side / (right - left)), math.ceil(height * side / (bottom - top))
        with told(path):
            image.draft("RGB", wanted[::order])
            pixels = rgb(image)
        pixels = pixels.transpose(TURNS[turn]) if turn in TURNS else pixels
        fx, fy = pixels.width / width, pixels.height / height
        box = (left * fx, top * fy, right * fx, bottom * fy)
        return np.asarray(pixels.resize((side, side), Image.Resampling.BILINEAR, box))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 where its EXIF data are damaged."""
    with suppress(Exception):  # Pillow raises whatever the damage leads to
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, 8 bits a channel; what shows through transparent pixels is white."""
    if image.mode[0] in "IF":
        image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey values of 16 bits, or floats in [0, 1], to 0 to 255; PIL's convert would only cut them off."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255 if values.max() > 1 else 1
    return Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8))


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what Pillow raises on `path`, which may be anything, into a UsageError."""
    try:
        yield
    except (UsageError, RunError, Stopped):  # from a signal's handler
        raise
    except Exception as e:
        raise UsageError(f"image {printable(path)} cannot be read: {reason(path, e)}") from e


def reason(path: Path, e: Exception) -> str:
    """Why Pillow could not read `path`, in plain words."""
    if isinstance(e, MemoryError):
        return "it is too large for the memory"
    if isinstance(e, UnidentifiedImageError):
        head = path.read_bytes()[:1024].lower()
        if not head:
            return "the file is empty"
        web_page = any(word in head for word in WEB_PAGE)
        return "it is a web page (HTML)" if web_page else "no image format that Pillow knows, or damaged"
    if isinstance(e, Image.DecompressionBombError):
        return f"it is too large: {str(e).partition(',')[0]}"
    if isinstance(e, OSError) and e.strerror:
        return e.strerror
    plain = isinstance(e, OSError | SyntaxError | ValueError) and str(e)
    return str(e) if plain else f"it is damaged ({type(e).__name__}: {e})"
