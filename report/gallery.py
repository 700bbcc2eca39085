"""Small pictures of validation and training images, with what is said of them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from data.image_data import Items
from report.html import Markup, escape, figure, image, join, tag
from utils.errors import UsageError

if TYPE_CHECKING:
    from analysis.judged import Judged

SIDE = 112  # pixels, of a thumbnail
LONGEST = 60  # letters of a file's name; of a longer one the end is shown


def gallery(figures: Iterable[str]) -> Markup:
    return tag("div", join(figures), class_="gallery")


def thumbnails(judged: "Judged", items: Items) -> Markup:
    """The images of `items` side by side; in place of one that cannot be read any more, that."""
    return join((_thumbnail(judged, items[i : i + 1]) for i in range(len(items))), " ")


def _thumbnail(judged: "Judged", item: Items) -> Markup:
    name = short(judged.name(item[0][0]))
    try:
        return thumbnail(judged.images(item)[0], name)
    except UsageError:
        return escape(f"{name} cannot be read any more.")


def thumbnail(pixels: np.ndarray, alt: str) -> Markup:
    """(S, S, C) uint8, grey or not, SIDE pixels wide on the page."""
    picture = Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
    if picture.width > SIDE:
        picture = picture.resize((SIDE, SIDE))
    return image(np.asarray(picture), alt, SIDE)


def captioned(content: str, lines: Iterable[object]) -> Markup:
    """Images above lines of text."""
    return figure(content, join(map(escape, lines), Markup("<br>")))


def short(name: str) -> str:
    return name if len(name) <= LONGEST else "..." + name[3 - LONGEST :]


def percent(part: float) -> str:
    """A probability; none is told as certain."""
    return f"{part:.0%}" if 0.01 <= part <= 0.99 else "over 99%" if part > 0.99 else "under 1%"
