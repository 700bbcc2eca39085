"""Charts as SVG within the page: thinned, in the page's colours, with the values at the pointer by page.js.

The drawing is stretched to the width of the page; its lines keep their width, and its labels are text of the page. So a
chart can be read on a telephone as well as on paper, and shows without scripts.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from report.html import Markup, escape, image, join, tag
from report.scale import Scale, short, thinned

WIDTH, HEIGHT = 2000, 1000  # units of a drawing
COLOURS = 8  # in page.css
FEW_POINTS = 30  # are drawn as dots as well
MOST_DOTS = 3000  # of a scatter plot
NUMBERED, MOST_CELLS = 12, 50  # classes up to which a heat map is a table with numbers, a table that scrolls


@dataclass
class Line:
    """A line of a chart.

    Args:
        y: NaN or None where there is no value. low, high: the band around it.
        colour: its number in the palette; None: that of its place.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    colour: int | None = None

    def columns(self) -> list[np.ndarray]:
        """x, y and, with a band, low and high, where there are values; float64."""
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
    """Lines over a common x; "" where they have no points.

    Args:
        diagonal: draw y = x as well.
        marks: (x, text), a vertical line, or (x, y, text), a point.
    """
    columns = [line.columns() for line in lines]
    finite = [np.isfinite(c[0]) & np.isfinite(c[1]) & ~(log_x & (c[0] <= 0)) & ~(log_y & (c[1] <= 0)) for c in columns]
    kept = [(line, [c[good] for c in cs]) for line, cs, good in zip(lines, columns, finite, strict=True) if good.any()]
    if not kept:
        return Markup()
    points = [mark for mark in marks if len(mark) == 3]
    x = Scale.of([cs[0] for _, cs in kept] + [[mark[0]] for mark in marks], log_x)
    y = Scale.of([c for _, cs in kept for c in cs[1:]] + [[mark[1]] for mark in points], log_y, room=True)
    drawn, data = _grid(x, y), []
    if diagonal:
        ends = max(x.low, y.low), min(x.high, y.high)
        drawn.append(f'<path class="diagonal" d="M{_at(x, y, ends[0], ends[0])}L{_at(x, y, ends[1], ends[1])}"/>')
    for number, (line, cs) in enumerate(kept):
        colour = (number if line.colour is None else line.colour) % COLOURS
        cs = thinned(cs)
        drawn += _line(x, y, cs, colour, line.dashed)
        data.append({"n": line.name, "c": colour, "d": int(line.dashed), "v": [[short(v) for v in c] for c in cs]})
    for mark in points:
        drawn.append(f'<path class="dots mark" d="M{_at(x, y, mark[0], mark[1])}h0"/>')
    labels = [_mark(x, y, mark) for mark in marks]
    legend = [(str(d["n"]), int(str(d["c"])), bool(d["d"])) for d in data] if len(data) > 1 else []
    return _chart(drawn, labels, x, y, (x_label, y_label), legend, data, _in_words(kept, x_label, y_label))


def scatter(groups: Mapping[str, Sequence[tuple[float, float, str]]], x_label: str, y_label: str) -> Markup:
    """Points (x, y, title) in groups; the title of the one at the pointer is shown."""
    total = sum(map(len, groups.values()))
    if not total:
        return Markup()
    step = -(-total // MOST_DOTS)
    groups = {name: points[::step] for name, points in groups.items()}
    every = [p for points in groups.values() for p in points]
    x, y = (Scale.of([[p[axis] for p in every]], room=True) for axis in (0, 1))
    drawn, data = _grid(x, y), []
    for number, (name, points) in enumerate(groups.items()):
        path = "".join(f"M{_at(x, y, p[0], p[1])}h0" for p in points)
        square = " square" if number // COLOURS % 2 else ""
        drawn.append(f'<path class="dots c{number % COLOURS}{square}" d="{path}"/>')
        values = [[short(p[axis]) for p in points] for axis in (0, 1)]
        data.append({"n": name, "c": number % COLOURS, "v": values, "t": [p[2] for p in points]})
    legend = [(name, number % COLOURS, False) for number, name in enumerate(groups)]
    words = f"{total} points: {y_label} over {x_label}"
    words += f"; one in {step} is drawn" if step > 1 else ""
    return _chart(drawn, [], x, y, (x_label, y_label), legend, data, words)


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
    shade = np.clip(shade, 0, 1)
    if max(values.shape) > MOST_CELLS:
        return _heat_picture(shade)
    head = join((tag("th", tag("span", name), scope="col") for name in columns), "")
    lines = [tag("tr", join([tag("th", corner), head], ""))]
    for name, numbers, darks in zip(rows, values, shade, strict=True):
        cells = [
            Markup(f'<td class="{"hi" if dark >= 0.75 else "lo"}" style="--v:{dark:.2f}">{short(v)}</td>')
            for v, dark in zip(numbers, darks, strict=True)
        ]
        lines.append(tag("tr", join([tag("th", name, scope="row"), *cells], "")))
    kind = "heat" if max(values.shape) <= NUMBERED else "heat many"
    return tag("div", tag("table", join(lines), class_=kind), class_="scroll", tabindex=0)


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


def _at(x: Scale, y: Scale, across: float, up: float) -> str:
    return f"{round(WIDTH * x.part(across))} {round(HEIGHT * (1 - y.part(up)))}"


def _grid(x: Scale, y: Scale) -> list[str]:
    across = "".join(f"M0 {round(HEIGHT * (1 - y.part(t)))}h{WIDTH}" for t in y.ticks)
    up = "".join(f"M{round(WIDTH * x.part(t))} 0v{HEIGHT}" for t in x.ticks)
    return [f'<path class="grid" d="{across}{up}"/>']


def _line(x: Scale, y: Scale, columns: list[np.ndarray], colour: int, dashed: bool) -> list[str]:
    points = [_at(x, y, *pair) for pair in zip(columns[0], columns[1], strict=True)]
    dash, drawn = " dashed" if dashed else "", []
    if len(columns) == 4:
        there = [_at(x, y, *pair) for pair in zip(columns[0], columns[3], strict=True)]
        back = [_at(x, y, *pair) for pair in zip(columns[0], columns[2], strict=True)]
        drawn.append(f'<path class="band c{colour}" d="M{"L".join(there + back[::-1])}Z"/>')
    drawn.append(f'<path class="line c{colour}{dash}" d="M{"L".join(points)}"/>')
    if len(points) <= FEW_POINTS:
        drawn.append(f'<path class="dots c{colour}" d="{"".join(f"M{p}h0" for p in points)}"/>')
    return drawn


def _mark(x: Scale, y: Scale, mark: tuple) -> Markup:
    left, *_, text = mark
    part = 100 * x.part(left)
    side = " left" if part > 50 else ""
    if len(mark) == 3:
        place = f"left:{part:.2f}%;top:{100 * (1 - y.part(mark[1])):.2f}%"
        return tag("span", text, class_=f"point{side}", style=place)
    return tag("span", tag("span", text), class_=f"mark{side}", style=f"left:{part:.2f}%")


def _chart(
    drawn: list[str],
    labels: list[Markup],
    x: Scale,
    y: Scale,
    names: tuple[str, str],
    legend: list[tuple[str, int, bool]],
    data: list[dict[str, Any]],
    words: str,
) -> Markup:
    box = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{"".join(drawn)}</svg>'
    left = [tag("span", y.text(t), class_="yt", style=f"top:{100 * (1 - y.part(t)):.2f}%") for t in y.ticks]
    below = [tag("span", x.text(t), class_="xt", style=f"left:{100 * x.part(t):.2f}%") for t in x.ticks]
    plot = tag(
        "div", join([Markup(box), *left, *below, *labels], ""), class_="plot", tabindex=0, role="img", aria_label=words
    )
    keys = [join([tag("i", class_=f"c{c}{' dashed' if d else ''}"), escape(name)], "") for name, c, d in legend]
    top = join([tag("span", names[1], class_="axis"), *(tag("span", key, class_="key") for key in keys)], " ")
    facts = {"x": names[0], "log": [int(x.log), int(y.log)], "lim": [x.low, x.high, y.low, y.high], "lines": data}
    content = [tag("div", top, class_="legend"), plot, tag("div", names[0], class_="axis below")]
    return tag("div", join(content), class_="chart", data_chart=json.dumps(facts, separators=(",", ":")))


def _in_words(kept: list[tuple[Line, list[np.ndarray]]], x_label: str, y_label: str) -> str:
    """The chart for those who cannot see it."""
    ends = [f"{line.name} from {short(cs[1][0])} to {short(cs[1][-1])}" for line, cs in kept[:6]]
    return f"{y_label} over {x_label}: {', '.join(ends)}" + (", ..." if len(kept) > 6 else "")
