"""Reads images of every format and mode that Pillow knows as sRGB pixels, upright, on white."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.colour import in_srgb, is_srgb
from data.levels import eight_bits, mend_transparency
from utils.errors import RunError, Stopped, UsageError
from utils.text import printable

VERSION = 2  # of the pixels that `read` makes of a file; images kept on disk by another are not used
ORIENTATION = 0x0112  # EXIF tag, 1 to 8: 1 is upright, 5 to 8 swap width and height
WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body")
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

# Pillow's warnings about odd but valid images; `check` reports them.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").addHandler(logging.NullHandler())


class Readable(Protocol):
    """A file, as Path is one, or what stands for one; `str` gives its name."""

    def open(self, mode: str) -> IO[bytes]: ...

    def read_bytes(self) -> bytes: ...


def read(
    source: Readable | Image.Image,
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
        mend_transparency(source)
        source.load()
        return _square(source, side, choose_box, resample, nullcontext())
    with _opened(source) as image:
        return _square(image, side, choose_box, resample, image_errors_as_usage(source))


def _square(
    image: Image.Image,
    side: int,
    choose_box: Callable[[tuple[int, int]], Box],
    resample: Image.Resampling,
    guard: AbstractContextManager[None],
) -> np.ndarray:
    """`read` of an open image; only what needs its pixels runs within `guard`."""
    turn, (width, height) = orientation(image), image.size
    box = choose_box((height, width) if turn >= 5 else (width, height))
    left, top, right, bottom = as_stored(box, turn, (width, height))
    with guard:
        draft = image.draft(
            "RGB", (math.ceil(width * side / (right - left)), math.ceil(height * side / (bottom - top)))
        )
        # The reduced size is rounded up, so its last pixels may be parts: the factor is no quotient of the sizes.
        fx, fy = (draft[1][2] / width, draft[1][3] / height) if draft else (1, 1)
        box = left * fx, top * fy, right * fx, bottom * fy
        return np.asarray(upright(rgb(image, lambda pixels: pixels.resize((side, side), resample, box)), turn))


def as_stored(box: Box, turn: int, size: tuple[int, int]) -> Box:
    """The box of the stored image, of `size`, that is `box` once the orientation `turn` is undone."""
    left, top, right, bottom = box
    if turn >= 5:
        left, top, right, bottom = top, left, bottom, right
    if turn in (2, 3, 7, 8):
        left, right = size[0] - right, size[0] - left
    if turn in (3, 4, 6, 7):
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom


def rgb_image(source: Path | Image.Image) -> Image.Image:
    """The whole image, RGB and upright.

    Raises:
        UsageError: the file cannot be read as an image.
    """
    if isinstance(source, Image.Image):
        mend_transparency(source)
        return upright(rgb(source), orientation(source))
    with _opened(source) as image, image_errors_as_usage(source):
        return upright(rgb(image), orientation(image))


@contextmanager
def _opened(path: Readable) -> Iterator[Image.Image]:
    """An open image file, loaded unless it is a JPEG."""
    with ExitStack() as stack:
        with image_errors_as_usage(path):
            # Not the path: Pillow would map an uncompressed TIFF into memory, and mix up its rows as it turns it.
            file = stack.enter_context(path.open("rb"))
            image = stack.enter_context(Image.open(file))
            if image.format not in ("JPEG", "MPO"):  # a PNG's EXIF data follow its pixels, a TIFF is turned as it loads
                mend_transparency(image)
                image.load()
        yield image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 if it has none, or one that is damaged."""
    with suppress(Exception):  # Pillow raises whatever the damage leads to
        turn = int(image.getexif().get(ORIENTATION, 1))
        return turn if 1 <= turn <= 8 else 1
    return 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """Undoes the EXIF orientation `turn`."""
    if turn == 1:
        return image
    image.info = {}  # exif_transpose fails on damage in any other EXIF tag
    image.getexif()[ORIENTATION] = turn
    return ImageOps.exif_transpose(image)


def rgb(image: Image.Image, shrink: Callable[[Image.Image], Image.Image] = lambda image: image) -> Image.Image:
    """A copy in sRGB, 8 bits a channel; transparent pixels are put on white.

    Args:
        shrink: is applied as early as it can be: to opaque RGB and grey before their colours are converted. Of
            photographs in Adobe RGB that changes 0.3 of 255 at 224 pixels a side, and takes a third of the time.
    """
    profile = image.info.get("icc_profile")
    if image.mode[0] in "IF":
        image = eight_bits(image)
    if image.mode == "P" and image.palette is None:
        image = image.copy()  # of an ICNS: Pillow asks for the palette before it looks for it
    if image.has_transparency_data:
        grey = image.mode in ("LA", "La", "L")
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")  # there is none from La to RGBA
        if not is_srgb(profile):
            alpha = image.getchannel("A")
            image = in_srgb(image.convert("L" if grey else "RGB"), profile)
            image.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        return shrink(Image.alpha_composite(white, image).convert("RGB"))
    if image.mode in ("L", "RGB"):
        return in_srgb(shrink(image), profile)
    return shrink(in_srgb(image if image.mode == "CMYK" else image.convert("RGB"), profile))


@contextmanager
def image_errors_as_usage(path: Readable) -> Iterator[None]:
    """Turns whatever Pillow raises on `path` into a UsageError."""
    try:
        yield
    except (UsageError, RunError, Stopped):  # from a signal's handler
        raise
    except Exception as e:
        raise UsageError(f"image {printable(str(path))} cannot be read: {reason(path, e)}") from e


def reason(path: Readable, e: Exception) -> str:
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
