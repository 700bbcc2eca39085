"""Pictures of curves by matplotlib, which is imported on first use: it is dear, and has no place in other commands."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils import files

# installed fonts whose names hold one of these have Chinese characters
CHINESE = ("CJK", "Han Sans", "WenQuanYi", "SimHei", "YaHei", "PingFang", "Heiti", "Hiragino", "Arial Unicode")


@contextmanager
def written(path: str | Path, size: tuple[float, float], dpi: int) -> Iterator[Any]:
    """A figure to draw on, written once the block ends well: as PNG, or as what `path` ends in, .pdf or .svg.

    Args:
        size: width and height in inches.

    Raises:
        RunError: it cannot be written.
    """
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)  # such as of its cache of fonts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        kind = Path(path).suffix.lower().removeprefix(".")
        with style.context("default"), files.atomic_write(path, "wb") as file:
            figure = Figure(figsize=size, layout="constrained", dpi=dpi)
            FigureCanvasAgg(figure)
            yield figure
            figure.savefig(file, format=kind if kind in ("pdf", "svg") else "png")


def readable(texts: Sequence[str]) -> list[str]:
    """The texts, in which characters that no installed font has are escaped; sets the fonts of the figure at work."""
    from matplotlib import font_manager, rcParams

    def has(family: str, c: str) -> bool:
        font = font_manager.get_font(font_manager.findfont(family))
        return bool(font.get_char_index(ord(c)))

    fonts, missing = ["DejaVu Sans"], {c for text in texts for c in text}
    missing = {c for c in missing if not has(fonts[0], c)}
    installed = {entry.name for entry in font_manager.fontManager.ttflist} if missing else set()
    for family in sorted(name for name in installed if any(part in name for part in CHINESE)):
        found = {c for c in missing if has(family, c)}
        if found:
            fonts.append(family)
            missing -= found
        if not missing:
            break
    rcParams["font.family"] = fonts
    escaped = {c: c.encode("unicode_escape").decode() for c in missing}
    return ["".join(escaped.get(c, c) for c in text) for text in texts]
