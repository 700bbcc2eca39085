"""JPEGs whose pixels end early although the file ends as it should: libjpeg fills in the rest without a word."""

import io
import random
import re

import numpy as np
from PIL import Image

LEAST = 1 / 4  # of the rows; a lower part of the grey that libjpeg fills in is taken for damage
GREY = 128  # what it fills in where it knows no colour yet
SCAN, MARKER, END = b"\xff\xda", re.compile(rb"\xff[\x01-\xfe]"), b"\xff\xd9"


def has_constant_lower_part(content: bytes) -> bool:
    """Whether rows at the bottom of a JPEG are of one colour because their pixels are missing.

    A picture may end in rows of one colour, such as a frame, so a second look decides: where the decoder stops to
    read pixels, others are put in, and it takes them only if some are missing. Without that, a lower quarter of
    the grey of missing pixels is enough, under anything else: the picture may have been saved again.

    Args:
        content: the bytes of an image file; of another format, the answer is False.

    Raises:
        Exception: whatever Pillow raises on a damaged file.
    """
    if not content.startswith(b"\xff\xd8\xff"):
        return False
    pixels = _eighth(content)
    differs = np.flatnonzero((pixels != pixels[-1:, -1:]).any(axis=1))
    constant = len(pixels) - (int(differs[-1]) + 1 if len(differs) else 0)
    if not constant:
        return False
    if pixels[-1, -1] == GREY and LEAST <= constant / len(pixels) < 1:
        return True
    return not np.array_equal(_eighth(_with_more_pixels(content)), pixels)


def _eighth(content: bytes) -> np.ndarray:
    """(H / 8, W / 8) uint8: the brightness of each block."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        image.draft("L", (1, 1))
        return np.asarray(image.convert("L"))


def _with_more_pixels(content: bytes) -> bytes:
    """The file with bytes that can be read as pixels before each marker that ends such bytes."""
    start = 2
    while content[start : start + 2] != SCAN:  # past the segments, one of which may hold a small picture
        start += 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if start >= len(content):
            return content
    more, end = random.Random(0).randbytes(200).replace(b"\xff", b""), content.find(END, start)
    end = end if end >= 0 else len(content)
    data = MARKER.sub(lambda found: more + found[0], content[start + 2 : end])
    return content[: start + 2] + data + more + content[end:]
