"""Charts as SVG within the page: thinned, in the page's colours, with the values at the pointer by page.js.

The drawing is stretched to the width of the page; its lines keep their width, and its labels are text of the page. So a
chart can be read on a telephone as well as on paper, and shows without scripts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from report import plot
from report.html import Markup, image, join, tag
from report.scale import Scale, drawable, short, thinned
from utils.text import printable

COLOURS = 8  # in page.css
MOST_DOTS = 3000  # of a scatter plot
DARK = 0.75  # shade from which on a number is in the other colour
NUMBERED, MOST_CELLS = 12, 50  # classes up to which a heat map is a table with numbers, a table that scrolls


@dataclass
class Line:
    """A line of a chart.

    Args:
        y: NaN or None where there is no value. low, high: the band around it.
        colour: its number in the palette; None: that of its place. A dashed line beside a solid one of the same colour
            has no entry in the legend.
        faint: drawn in the background.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    colour: int | None = None
    faint: bool = False

    def style(self, number: int) -> str:
        """Its class in page.css; the lines of the second round of colours are dotted."""
        second = self.colour is None and number // COLOURS % 2
        return "faint" if self.faint else "dashed" if self.dashed else "dotted" if second else ""

    def columns(self) -> list[np.ndarray]:
        """x, y and, with a band, low and high; float64."""
        given = [self.x, self.y, *([self.low, self.high] if self.low is not None else [])]
        return [np.array([math.nan if v is None else v for v in column or []], dtype=float) for column in given]


def lines(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[tuple] = (),
) -> Markup:
    """Lines over a common x, which rises or falls along each; "" where they have no points.

    Args:
        diagonal: draw y = x as well.
        marks: (x, text), a vertical line, or (x, y, text), a point.
    """
    columns = [line.columns() for line in lines]
    there = [drawable(c) & ~(log_x & (c[0] <= 0)) & ~(log_y & (c[1] <= 0)) for c in columns]
    kept = [(line, [c[good] for c in cs]) for line, cs, good in zip(lines, columns, there, strict=True) if good.any()]
    if not kept:
        return Markup()
    points = [mark for mark in marks if len(mark) == 3]
    x = Scale.of([cs[0] for _, cs in kept] + [[mark[0]] for mark in marks], log_x)
    y = Scale.of([c for _, cs in kept for c in cs[1:]] + [[mark[1]] for mark in points], log_y, room=True)
    drawn, data = plot.grid(x, y), list[dict[str, Any]]()
    if diagonal:
        ends = max(x.low, y.low), min(x.high, y.high)
        drawn.append(
            f'<path class="diagonal" d="M{plot.at(x, y, ends[0], ends[0])}L{plot.at(x, y, ends[1], ends[1])}"/>'
        )
    for number, (line, cs) in enumerate(kept):
        colour = (number if line.colour is None else line.colour) % COLOURS
        cs = thinned(cs)
        values = [[short(v) for v in c[:: -1 if cs[0][0] > cs[0][-1] else 1]] for c in cs]  # x rising, for page.js
        data.append({"n": printable(line.name), "c": colour, "s": line.style(number), "v": values})
        drawn += plot.line(x, y, cs, colour, data[-1]["s"])
    for mark in points:
        drawn.append(f'<path class="dots mark" d="M{plot.at(x, y, mark[0], mark[1])}h0"/>')
    labels = [plot.mark(x, y, mark) for mark in marks]
    solid = {entry["c"] for entry in data if not entry["s"]}
    legend = [entry for entry in data if entry["s"] != "dashed" or entry["c"] not in solid] if len(data) > 1 else []
    words = _in_words(kept, x_label, y_label)
    return plot.chart(drawn, labels, x, y, (x_label, y_label), legend, data, words, square=diagonal)


def scatter(groups: Mapping[str, Sequence[tuple[float, float, str]]], x_label: str, y_label: str) -> Markup:
    """Points (x, y, title) in groups; the title of the one at the pointer is shown."""
    total = sum(map(len, groups.values()))
    if not total:
        return Markup()
    step = -(-total // MOST_DOTS)
    groups = {name: points[::step] for name, points in groups.items()}
    every = [p for points in groups.values() for p in points]
    x, y = (Scale.of([[p[axis] for p in every]], room=True) for axis in (0, 1))
    drawn, data = plot.grid(x, y), []
    for number, (name, points) in enumerate(groups.items()):
        path = "".join(f"M{plot.at(x, y, p[0], p[1])}h0" for p in points)
        square = " square" if number // COLOURS % 2 else ""
        drawn.append(f'<path class="dots c{number % COLOURS}{square}" d="{path}"/>')
        values = [[short(p[0]) for p in points], [short(p[1]) for p in points]]
        data.append(
            {"n": printable(name), "c": number % COLOURS, "s": "", "v": values, "t": [printable(p[2]) for p in points]}
        )
    words = f"{total} points: {y_label} over {x_label}"
    words += f"; one in {step} is drawn" if step > 1 else ""
    return plot.chart(drawn, [], x, y, (x_label, y_label), data, data, words)


def heat(
    matrix: Sequence[Sequence[float]] | np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    shade: np.ndarray | None = None,
    corner: str = "",
) -> Markup:
    """A matrix of numbers as shades: a table with numbers, or a picture where it is large.

    Args:
        shade: how dark each cell is, in [0, 1]; None: its part of the largest.
        corner: what stands above the names of the rows.
    """
    values = np.asarray(matrix, dtype=float)
    if shade is None:
        shade = np.nan_to_num(values) / (np.nanmax(values, initial=0) or 1)
    shade = np.clip(np.nan_to_num(shade), 0, 1)
    if max(values.shape) > MOST_CELLS:
        return _heat_picture(shade)
    head = join((tag("th", tag("span", name), scope="col") for name in columns), "")
    lines = [tag("tr", join([tag("th", corner), head], ""))]
    for name, numbers, darks in zip(rows, values, shade, strict=True):
        cells = [_heat_cell(v, dark) for v, dark in zip(numbers, darks, strict=True)]
        lines.append(tag("tr", join([tag("th", name, scope="row"), *cells], "")))
    kind = "heat" if max(values.shape) <= NUMBERED else "heat many"
    return tag("div", tag("table", join(lines), class_=kind), class_="scroll", tabindex=0)


def _heat_cell(value: float, dark: float) -> Markup:
    side, text = "hi" if dark >= DARK else "lo", short(value) if np.isfinite(value) else ""
    return Markup(f'<td class="{side}" style="--v:{dark:.2f}">{text}</td>')


def _heat_picture(shade: np.ndarray) -> Markup:
    """Each cell a pixel, or the darkest of several."""
    step = -(-max(shade.shape) // 400)
    height, width = (-(-side // step) * step for side in shade.shape)
    padded = np.zeros((height, width))
    padded[: shade.shape[0], : shade.shape[1]] = shade
    small = padded.reshape(height // step, step, width // step, step).max(axis=(1, 3))
    ends = np.array([[244, 247, 250], [8, 81, 156]])
    pixels = ends[0] + np.sqrt(small)[..., None] * (ends[1] - ends[0])
    return image(pixels.astype(np.uint8), "the matrix, a pixel for each cell: dark where its share is large", width=480)


def _in_words(kept: list[tuple[Line, list[np.ndarray]]], x_label: str, y_label: str) -> str:
    """The chart for those who cannot see it."""
    ends = [f"{line.name} from {short(cs[1][0])} to {short(cs[1][-1])}" for line, cs in kept[:6]]
    return f"{y_label} over {x_label}: {', '.join(ends)}" + (", ..." if len(kept) > 6 else "")
