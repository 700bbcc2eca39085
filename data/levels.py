"""Grey values of 16 bits, 32 bits and floats, as 8 bits."""

import numpy as np
from PIL import Image

BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF
WHITE_IS_ZERO, SIGNED = 0, 2  # values of the last two


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of mode I;16*, I or F as L, or as LA if one of its values stands for transparency.

    Black is 0, and white is `white(image)`, or the other way round where a TIFF says so; what lies outside is
    clipped.
    """
    values = levels(image)
    top = white(image, values)
    if _tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = top - values
    grey = Image.fromarray((values.clip(0, top) * (255 / top) + 0.5).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray((np.asarray(image) != clear).astype(np.uint8) * 255))
    return grey


def levels(image: Image.Image) -> np.ndarray:
    """(H, W) float32: the stored values, 0 for what is no number. Pillow gives the bits of a uint32 as int32."""
    values, tags = np.asarray(image), _tags(image)
    if image.mode == "I" and _first(tags, BITS) == 32 and _first(tags, SAMPLE_FORMAT) != SIGNED:
        values = values.view(np.uint32)
    return np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)


def white(image: Image.Image, values: np.ndarray) -> int:
    """The value that is white.

    Of whole numbers it follows from the format alone: the largest that a TIFF's bits hold (4095 of 12 bits, 65535
    of 16, 32767 of 16 with a sign), and 65535 of all others, to which Pillow scales PNG, PGM and JPEG 2000. Floats
    are in [0, 1]; but if most of those above 0 are above 1 too, they are in [0, 255], and if most are above 255,
    in [0, 65535]. A few pixels that are too bright are clipped, and never change how the others are read.

    Args:
        values: `levels(image)`.
    """
    if image.mode != "F":
        tags = _tags(image)
        return int(2 ** (_first(tags, BITS, 16) - (_first(tags, SAMPLE_FORMAT) == SIGNED)) - 1)
    above = [int(np.count_nonzero(values > level)) for level in (0, 1, 255)]
    return 1 if 2 * above[1] <= above[0] else 255 if 2 * above[2] <= above[0] else 65535


def span(image: Image.Image) -> float | None:
    """The part of its range that an image uses, up to its largest value; None if it has 8 bits.

    Colours of 16 bits are known as such before they are loaded only, since Pillow reduces them to 8.
    """
    if image.mode[0] not in "IF":
        return float(np.asarray(image.convert("RGB")).max()) / 255 if ";16" in _packed(image) else None
    values = levels(image)
    top = white(image, values)
    brightest = top - values.min() if _tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO else values.max()
    return float(brightest) / top


def mend_transparency(image: Image.Image) -> None:
    """Scales the transparent colour of a PNG to 8 bits, as Pillow does with its pixels; before they are loaded."""
    clear, packed = image.info.get("transparency"), _packed(image)
    if isinstance(clear, int) and packed in ("L;2", "L;4"):
        image.info["transparency"] = clear * (85 if packed == "L;2" else 17)
    if isinstance(clear, tuple) and packed == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _packed(image: Image.Image) -> str:
    """How a file stores the pixels, in Pillow's words, such as "RGB;16B"; "" once they are loaded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if args and isinstance(args, tuple) else args)


def _tags(image: Image.Image) -> dict:
    return getattr(image, "tag_v2", {})


def _first(tags: dict, tag: int, default: int = 1) -> int:
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
