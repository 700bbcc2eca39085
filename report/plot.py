"""The drawing of a chart: paths in an SVG that is stretched to the page, and around it labels that are text."""

import json
from typing import Any

import numpy as np

from report.html import Markup, escape, join, tag
from report.scale import Scale

WIDTH, HEIGHT = 2000, 1000  # units of a drawing
FEW_POINTS = 12  # are drawn as dots as well


def at(x: Scale, y: Scale, across: float, up: float) -> str:
    """A point in units of the drawing."""
    return f"{round(WIDTH * x.part(across))} {round(HEIGHT * (1 - y.part(up)))}"


def grid(x: Scale, y: Scale) -> list[str]:
    """The lines at the ticks."""
    across = "".join(f"M0 {round(HEIGHT * (1 - y.part(t)))}h{WIDTH}" for t in y.ticks)
    up = "".join(f"M{round(WIDTH * x.part(t))} 0v{HEIGHT}" for t in x.ticks)
    return [f'<path class="grid" d="{across}{up}"/>']


def line(x: Scale, y: Scale, columns: list[np.ndarray], colour: int, style: str) -> list[str]:
    """A line through the columns x and y; with two more, low and high, in a band."""
    points = [at(x, y, *pair) for pair in zip(columns[0], columns[1], strict=True)]
    drawn = []
    if len(columns) == 4:
        there = [at(x, y, *pair) for pair in zip(columns[0], columns[3], strict=True)]
        back = [at(x, y, *pair) for pair in zip(columns[0], columns[2], strict=True)]
        drawn.append(f'<path class="band c{colour}" d="M{"L".join(there + back[::-1])}Z"/>')
    drawn.append(f'<path class="line c{colour} {style}" d="M{"L".join(points)}"/>')
    if len(points) <= FEW_POINTS:
        drawn.append(f'<path class="dots c{colour}" d="{"".join(f"M{p}h0" for p in points)}"/>')
    return drawn


def mark(x: Scale, y: Scale, mark: tuple) -> Markup:
    """The text of a mark, (x, text) or (x, y, text), and the vertical line of the first kind."""
    left, *_, text = mark
    part = 100 * x.part(left)
    side = " left" if part > 50 else ""
    if len(mark) == 3:
        place = f"left:{part:.2f}%;top:{100 * (1 - y.part(mark[1])):.2f}%"
        return tag("span", text, class_=f"point{side}", style=place)
    return tag("span", tag("span", text), class_=f"mark{side}", style=f"left:{part:.2f}%")


def chart(
    drawn: list[str],
    labels: list[Markup],
    x: Scale,
    y: Scale,
    names: tuple[str, str],
    legend: list[dict[str, Any]],
    data: list[dict[str, Any]],
    words: str,
    square: bool = False,
) -> Markup:
    """The whole chart.

    Args:
        drawn: paths. labels: of marks. names: of the axes. words: what it shows, for those who cannot see it.
        legend, data: of each line its name n, colour c, style s, and values v, the x first.
        square: of equal sides, as for what has a diagonal.
    """
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{"".join(drawn)}</svg>'
    left = [tag("span", y.text(t), class_="yt", style=f"top:{100 * (1 - y.part(t)):.2f}%") for t in y.ticks]
    below = [tag("span", x.text(t), class_="xt", style=f"left:{100 * x.part(t):.2f}%") for t in x.ticks]
    box = tag(
        "div",
        join([Markup(svg), *left, *below, *labels], ""),
        class_="plot marked" if labels else "plot",
        tabindex=0,
        role="img",
        aria_label=words,
    )
    keys = [join([tag("i", class_=f"c{entry['c']} {entry['s']}"), escape(entry["n"])], "") for entry in legend]
    top = join([tag("span", names[1], class_="axis"), *(tag("span", key, class_="key") for key in keys)], " ")
    facts = {"x": names[0], "log": [int(x.log), int(y.log)], "lim": [x.low, x.high, y.low, y.high], "lines": data}
    content = [tag("div", top, class_="legend"), box, tag("div", names[0], class_="axis below")]
    return tag(
        "div",
        join(content),
        class_="chart square" if square else "chart",
        data_chart=json.dumps(facts, separators=(",", ":")),
    )
