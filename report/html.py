"""Pieces of HTML. All text from outside is escaped here; images lie within the page, as data: URIs."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, features

from utils.text import printable

MOST_ROWS = 200  # of a table
NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?\s?(%|s|min|h|MB|GB)?( ± .*| \(.*\))?")


class Markup(str):
    """HTML that is safe as it is."""


def escape(text: object) -> Markup:
    """Text as HTML, for contents and for attributes in quotes; Markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(_visible(str(text))))


def _visible(text: str) -> str:
    """What cannot be printed, as \\x07 or half a surrogate pair, is written out; line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def join(parts: Iterable[str], between: str = "\n") -> Markup:
    return Markup(between.join(map(escape, parts)))


def tag(name: str, content: object = "", **attributes: object) -> Markup:
    """`<name attribute="...">content</name>`; attributes that are None are left out, class_ is class."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    inside = "".join(f' {key}="{escape(value)}"' for key, value in given.items())
    return Markup(f"<{name}{inside}>{escape(content)}</{name}>")


def paragraph(text: object, class_: str | None = None) -> Markup:
    return tag("p", text, class_=class_)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], most: int = MOST_ROWS) -> Markup:
    """A table in a box of its own that scrolls sideways; cells are escaped unless they are Markup.

    Args:
        most: rows to show; a note says how many are left out.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    columns = list(zip(*cells[:most], strict=True)) or [()] * len(head)
    right = [any(column) and all(not cell or NUMBER.fullmatch(cell) for cell in column) for column in columns]
    sides = ["n" if numeric else None for numeric in right]
    lines = [tag("tr", join((tag("th", c, scope="col", class_=side) for c, side in zip(head, sides, strict=True)), ""))]
    for row in cells[:most]:
        lines.append(tag("tr", join((tag("td", c, class_=side) for c, side in zip(row, sides, strict=True)), "")))
    text = tag("div", tag("table", join(lines)), class_="scroll", tabindex=0)
    left = len(cells) - most
    return text if left <= 0 else join([text, paragraph(f"{left} more rows are left out.", "note")])


def _text(value: object) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def image(array: np.ndarray, alt: str, width: int | None = None) -> Markup:
    """An (H, W, 3) uint8 array as an image within the page, in the format that is smallest for it.

    Args:
        alt: what it shows, for those who cannot see it.
        width: pixels of the page that it takes at most; None: its own.
    """
    height, own = array.shape[:2]
    shown = width or own
    kind, data = _encoded(Image.fromarray(np.ascontiguousarray(array)))
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    size = {"width": shown, "height": round(height * shown / own)}
    crisp = "crisp" if shown > 1.5 * own else None
    return Markup(tag("img", src=source, alt=alt, class_=crisp, **size).removesuffix("</img>"))


def _encoded(picture: Image.Image) -> tuple[str, bytes]:
    lossy: dict[str, Any] = (
        {"webp": {"quality": 80, "method": 4}} if features.check("webp") else {"jpeg": {"quality": 82}}
    )
    encoded = {}
    for kind, options in ({"png": {"optimize": True}} | lossy).items():
        file = io.BytesIO()
        picture.save(file, kind, **options)
        encoded[kind] = file.getvalue()
    return min(encoded.items(), key=lambda item: len(item[1]))


def figure(content: str, caption: object = "") -> Markup:
    """Something to see, with a line under it. `content`: Markup."""
    return tag("figure", join([content, tag("figcaption", caption) if caption else Markup()]))


def details(summary: object, content: object, opened: bool = False) -> Markup:
    """What is folded away until it is asked for."""
    attributes = {"open": ""} if opened else {}
    return tag("details", join([tag("summary", summary), escape(content)]), **attributes)
