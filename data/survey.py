"""A look at every image of a data set: what it is, and whether training could read it."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.image_data import Items
from data.transforms import ORIENTATION, Preprocess
from utils.errors import UsageError
from utils.progress import watched

HUGE = 20_000_000  # pixels, above which reading takes seconds
AT_ONCE = 64  # images looked at before the next ones are handed out


@dataclass(frozen=True)
class Look:
    """What one image is.

    Attributes:
        digest: BLAKE2 of the file's bytes, "" where they cannot be had.
        size: (width, height) in pixels; None where the file is no image.
        kinds: what is odd about it: "CMYK", "16-bit", "palette", "grey", "transparent", "animated", "rotated by EXIF", "huge".
        problem: why training cannot read it, in one line.
    """

    path: Path
    label: int
    digest: str = ""
    size: tuple[int, int] | None = None
    kinds: tuple[str, ...] = ()
    problem: str | None = None


def look(path: Path, label: int, preprocess: Preprocess) -> Look:
    """Reads one image as training does, all of it."""
    digest = ""
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        preprocess.eval(path)
        with Image.open(path) as image:
            return Look(path, label, digest, image.size, kinds(image))
    except (UsageError, OSError) as e:
        return Look(path, label, digest, problem=str(e).partition("cannot be read: ")[2] or str(e))


def kinds(image: Image.Image) -> tuple[str, ...]:
    """What is odd about an open image; decodes nothing."""
    mode = image.mode
    found = {
        "CMYK": mode == "CMYK",
        "16-bit": mode.startswith("I"),
        "palette": mode == "P",
        "grey": mode in ("1", "L", "LA"),
        "transparent": mode in ("LA", "PA", "RGBA") or "transparency" in image.info,
        "animated": getattr(image, "n_frames", 1) > 1,
        "rotated by EXIF": image.getexif().get(ORIENTATION, 1) != 1,
        "huge": image.width * image.height > HUGE,
    }
    return tuple(kind for kind, is_so in found.items() if is_so)


def look_at_all(items: Items, preprocess: Preprocess, threads: int) -> list[Look]:
    """Looks at all `items`, in order, with a progress bar. Threads do: Pillow decodes outside of Python's lock."""

    def chunks() -> Iterator[list[Look]]:
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for start in range(0, len(items), AT_ONCE):
                some = items[start : start + AT_ONCE]
                yield list(pool.map(lambda item: look(*item, preprocess), some))

    return [one for chunk in watched(chunks(), "checking", len(items)) for one in chunk]
