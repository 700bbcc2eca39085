"""Reads images of every format and mode that Pillow knows as RGB pixels, upright, on white."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import RunError, Stopped, UsageError
from utils.files import printable

ORIENTATION = 0x0112  # EXIF tag, 1 to 8: 1 is upright, 5 to 8 swap width and height
WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body")
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

# Pillow's warnings about odd but valid images; `check` reports them.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read(
    source: Path | Image.Image,
    side: int,
    choose_box: Callable[[tuple[int, int]], Box],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Reads the box that `choose_box` chooses from (width, height), resized to (side, side, 3) uint8, RGB.

    The box is chosen from the file's header, before decoding: a JPEG is then decoded at 1/2, 1/4 or 1/8 of
    its size if that still has a pixel for each one wanted (libjpeg's DCT scaling). An animation gives its
    first frame.

    Raises:
        UsageError: the file cannot be read as an image; one line with path and reason.
    """
    if isinstance(source, Image.Image):
        pixels = upright(rgb(source), orientation(source))
        return np.asarray(pixels.resize((side, side), resample, choose_box(pixels.size)))
    with _opened(source) as image:
        turn = orientation(image)
        width, height = (image.height, image.width) if turn >= 5 else image.size
        left, top, right, bottom = choose_box((width, height))
        w, h = math.ceil(width * side / (right - left)), math.ceil(height * side / (bottom - top))
        with image_errors_as_usage(source):
            image.draft("RGB", (h, w) if turn >= 5 else (w, h))
            pixels = upright(rgb(image), turn)
        fx, fy = pixels.width / width, pixels.height / height
        box = (left * fx, top * fy, right * fx, bottom * fy)
        return np.asarray(pixels.resize((side, side), resample, box))


def rgb_image(source: Path | Image.Image) -> Image.Image:
    """The whole image, RGB and upright.

    Raises:
        UsageError: the file cannot be read as an image.
    """
    if isinstance(source, Image.Image):
        return upright(rgb(source), orientation(source))
    with _opened(source) as image, image_errors_as_usage(source):
        return upright(rgb(image), orientation(image))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with image_errors_as_usage(path):
        image = Image.open(path)
    with image:
        if image.format not in (
            "JPEG",
            "MPO",
        ):  # a PNG's EXIF data follow its pixels, a TIFF is turned as it loads
            with image_errors_as_usage(path):
                image.load()
        yield image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 if it has none, or its EXIF data are damaged."""
    with suppress(Exception):  # Pillow raises whatever the damage leads to
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Undoes the EXIF orientation `turn`."""
    if turn == 1:
        return image
    image.info = {}  # exif_transpose fails on damage in any other EXIF tag
    image.getexif()[ORIENTATION] = turn
    return ImageOps.exif_transpose(image)


def rgb(image: Image.Image) -> Image.Image:
    """A copy in RGB, 8 bits a channel; transparent pixels are put on white."""
    if image.mode[0] in "IF":
        image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey values of 16 bits, or floats in [0, 1], to 0 to 255; PIL's convert would clip them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255 if values.max() > 1 else 1
    return Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8))


@contextmanager
def image_errors_as_usage(path: Path) -> Iterator[None]:
    """Turns whatever Pillow raises on `path` into a UsageError."""
    try:
        yield
    except (UsageError, RunError, Stopped):  # from a signal's handler
        raise
    except Exception as e:
        raise UsageError(f"image {printable(path)} cannot be read: {reason(path, e)}") from e


def reason(path: Path, e: Exception) -> str:
    """Why Pillow could not read `path`, in plain words."""
    if isinstance(e, MemoryError):
        return "it does not fit into memory"
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
