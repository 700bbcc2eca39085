"""A look at every image of a data set: what it is, and whether training could read it."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.image_data import ImageData, Items
from data.reading import ORIENTATION, told
from data.transforms import Preprocess
from utils.errors import UsageError
from utils.files import printable
from utils.progress import in_threads

HUGE = 20_000_000  # pixels, above which reading takes seconds


@dataclass(frozen=True)
class Inspection:
    """What one image is.

    Attributes:
        digest: BLAKE2 of the file's bytes; "" where they cannot be had.
        size: (width, height) in pixels as stored; None where the image cannot be read.
        kinds: what is odd about it, of KINDS.
        problem: why training cannot read it.
    """

    path: Path
    label: int
    digest: str = ""
    size: tuple[int, int] | None = None
    kinds: tuple[str, ...] = ()
    problem: str | None = None


KINDS: dict[str, Callable[[Image.Image], bool]] = {
    "CMYK": lambda image: image.mode == "CMYK",
    "16-bit": lambda image: image.mode.startswith("I"),
    "floating point": lambda image: image.mode == "F",
    "palette": lambda image: image.mode in ("P", "PA"),
    "grey": lambda image: image.mode in ("1", "L", "LA"),
    "transparent": lambda image: image.has_transparency_data,
    "animated": lambda image: image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
    "rotated by EXIF": lambda image: image.getexif().get(ORIENTATION, 1) != 1,
    "huge": lambda image: image.width * image.height > HUGE,
}


def look(path: Path, label: int, preprocess: Preprocess) -> Inspection:
    """Reads one image as training does, all of it."""
    digest = ""
    try:
        with told(path):
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        preprocess.eval(path)
        with told(path), Image.open(path) as image:
            return Inspection(path, label, digest, image.size, tuple(kind for kind in KINDS if is_a(kind, image)))
    except UsageError as e:
        return Inspection(path, label, digest, problem=str(e).removeprefix(f"image {printable(path)} cannot be read: "))


def is_a(kind: str, image: Image.Image) -> bool:
    """Whether an open image is of a kind of KINDS."""
    with suppress(Exception):  # damage that training does not meet: in a later frame, in the EXIF data
        return KINDS[kind](image)
    return False


def inspect_images(dataset: ImageData, items: Items, preprocess: Preprocess, threads: int) -> list[Inspection]:
    """Looks at all `items`, in order, with a progress bar. Threads do: Pillow decodes outside of Python's lock."""
    if (pixels := dataset.pixels(items)) is not None:  # nothing odd can be in an array, but doubles can
        height, width = pixels.shape[1:3]
        digests = (hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in pixels)
        return [
            Inspection(path, label, digest, (width, height))
            for (path, label), digest in zip(items, digests, strict=True)
        ]
    inspections = in_threads(lambda item: look(*item, preprocess), items, "checking", threads)
    return [one for part in inspections for one in part]
