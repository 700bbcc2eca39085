"""Inspects every image of a data set: what it is, and whether training can read it."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.colour import is_srgb
from data.damage import has_constant_lower_part
from data.image_data import ImageData, Items
from data.levels import span
from data.reading import image_errors_as_usage, orientation
from data.transforms import Preprocess
from utils.errors import UsageError
from utils.progress import in_threads
from utils.text import printable

HUGE = 20_000_000  # pixels; larger images take seconds to read
DAMAGED = "constant lower part (damaged?)"


@dataclass(frozen=True)
class Inspection:
    """What one image is.

    Attributes:
        digest: BLAKE2 of the file's bytes, or of the pixels of an image in memory; "" if it cannot be read.
        size: (width, height) in pixels as stored; None if the image cannot be read.
        kinds: which of KINDS it is, or DAMAGED.
        span: the part of its range that it uses, in [0, 1]; None if it has 8 bits.
        problem: why training cannot read it; None if it can.
    """

    path: Path
    label: int
    digest: str = ""
    size: tuple[int, int] | None = None
    kinds: tuple[str, ...] = ()
    span: float | None = None
    problem: str | None = None


KINDS: dict[str, Callable[[Image.Image], bool]] = {
    "CMYK": lambda image: image.mode == "CMYK",
    "16-bit": lambda image: image.mode.startswith("I"),
    "floating point": lambda image: image.mode == "F",
    "palette": lambda image: image.mode in ("P", "PA"),
    "colour profile": lambda image: not is_srgb(image.info.get("icc_profile")),
    "grey": lambda image: image.mode in ("1", "L", "LA"),
    "transparent": lambda image: image.has_transparency_data,
    "animated": lambda image: image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
    "rotated by EXIF": lambda image: orientation(image) != 1,
    "huge": lambda image: image.width * image.height > HUGE,
}


def inspect_image(path: Path, label: int, preprocess: Preprocess, dataset: ImageData | None = None) -> Inspection:
    """Reads one image completely, as training does.

    Args:
        dataset: where the image comes from; None: `path` is an image file.
    """
    digest = ""
    try:
        source = path if dataset is None else dataset.load(path)
        if isinstance(source, Image.Image):
            digest = _digest(source.tobytes())
            preprocess.eval(source)
            return Inspection(path, label, digest, source.size, kinds_of(source), span(source))
        with image_errors_as_usage(source):
            content = source.read_bytes()
        digest = _digest(content)
        preprocess.eval(source)
        with image_errors_as_usage(source), Image.open(source) as image:
            size, kinds, used = image.size, kinds_of(image), span(image)
        with suppress(Exception):  # damage that `eval` does not mind
            kinds += (DAMAGED,) if has_constant_lower_part(content) else ()
        return Inspection(path, label, digest, size, kinds, used)
    except UsageError as e:
        return Inspection(path, label, digest, problem=str(e).removeprefix(f"image {printable(path)} cannot be read: "))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def kinds_of(image: Image.Image) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if is_a(kind, image))


def is_a(kind: str, image: Image.Image) -> bool:
    """Whether an open image is of a kind of KINDS."""
    with suppress(Exception):  # damage that does not matter for training: in a later frame, in the EXIF data
        return KINDS[kind](image)
    return False


def inspect_images(dataset: ImageData, items: Items, preprocess: Preprocess, threads: int) -> list[Inspection]:
    """Inspects all `items`, in order, in threads (Pillow decodes without the GIL), with a progress bar."""
    if (pixels := dataset.pixels(items)) is not None:  # arrays are never odd, but may hold duplicates
        size = pixels.shape[2], pixels.shape[1]
        pairs = zip(items, pixels, strict=True)
        return [Inspection(path, label, _digest(image.tobytes()), size) for (path, label), image in pairs]
    inspections = in_threads(
        lambda item: inspect_image(item[0], item[1], preprocess, dataset), items, "checking", threads
    )
    return [one for part in inspections for one in part]
