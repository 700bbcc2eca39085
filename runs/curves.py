"""The curves of runs on one picture, and in visdom. Imports no torch."""

import socket
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config import Config
from runs import compare
from runs.history import is_number
from runs.table import Row
from utils import figures
from utils.text import printable

SHOWN = 20  # rows in a legend
STYLES = ("-", "--", ":", "-.")
PATIENCE = 0.3  # s in which a visdom server accepts


@dataclass
class Curve:
    """A metric against the epoch: of several seeds the mean, the least and the largest value.

    Attributes:
        style: one of STYLES.
    """

    row: Row
    name: str
    style: str
    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def draw(rows: list[Row], opt: Config) -> list[str]:
    """Writes the picture and draws into visdom, as the options say; returns a line for each."""
    panels = {title: curves for title, curves in panels_of(rows).items() if curves}
    if not panels:
        return ["no curves: no epoch has been recorded"]
    lines = []
    if opt.curves_file:
        write(panels, rows, opt.curves_file)
        lines.append(f"curves: {printable(opt.curves_file)}")
    return lines + draw_in_visdom(panels, rows, opt)


def panels_of(rows: list[Row]) -> dict[str, list[Curve]]:
    """{title: curves}: the losses, of GANs those of both nets; and each monitored metric that is none of them."""
    names = sorted({name for row in rows for run in row.runs for epoch in run.epochs for name in epoch})
    losses: list[str] = [name for name in ("val_loss", "train_loss") if name in names]
    losses = losses or [name for name in names if name.startswith("train_") and name.endswith("_loss")]
    panels = {"loss": losses}
    for monitored in sorted({f"val_{row.monitor}" for row in rows} - set(losses)):
        panels[monitored] = [monitored]
    return {title: [c for row in rows for c in _curves(row, some)] for title, some in panels.items()}


def _curves(row: Row, names: list[str]) -> list[Curve]:
    found = []
    for name, style in zip(names, STYLES, strict=False):
        values: dict[int, list[float]] = {}
        for epoch in (epoch for run in row.runs for epoch in run.epochs):
            if is_number(epoch.get(name)):
                values.setdefault(epoch["epoch"], []).append(float(epoch[name]))
        if values:
            epochs = sorted(values)
            mean, low, high = ([f(values[n]) for n in epochs] for f in (statistics.fmean, min, max))
            found.append(Curve(row, name, style, epochs, mean, low, high))
    return found


def write(panels: dict[str, list[Curve]], rows: list[Row], path: str | Path) -> None:
    """Writes the picture: a PNG, or what `path` ends in, .pdf or .svg.

    Raises:
        RunError: it cannot be written.
    """
    labels = dict(list(compare.labels(rows).items())[:SHOWN])
    with figures.written(path, (5 * len(panels), 3.6 + 0.22 * len(labels)), dpi=85) as figure:
        _draw(figure, panels, rows, labels)


def _draw(figure: Any, panels: dict[str, list[Curve]], rows: list[Row], labels: dict[Row, str]) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    many = len(rows) > 10  # more than there are named colours
    colours = {row: colormaps["turbo"](i / len(rows)) if many else f"C{i}" for i, row in enumerate(rows)}
    texts = figures.readable(list(labels.values()))
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw_panel(axes, title, curves, colours)
    handles = [Line2D([], [], color=colours[row]) for row in labels]
    legend = figure.legend(handles, texts, loc="outside lower center", fontsize="small", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold dollars


def _draw_panel(axes: Any, title: str, curves: list[Curve], colours: dict[Row, Any]) -> None:
    for curve in curves:
        marker = "." if len(curve.epochs) < 30 else ""
        axes.plot(curve.epochs, curve.mean, curve.style, color=colours[curve.row], marker=marker, linewidth=1.5)
        if curve.row.seeds:
            axes.fill_between(curve.epochs, curve.low, curve.high, color=colours[curve.row], alpha=0.15, linewidth=0)
    values = [value for curve in curves for value in curve.low + curve.high]
    if title == "loss" and 0 < 10 * min(values) < max(values):  # else the start hides the end
        axes.set_yscale("log")
    axes.set_title(printable(title).removeprefix("val_"), parse_math=False)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    kinds = {curve.name: curve.style for curve in curves}
    if len(kinds) > 1:
        lines = [axes.plot([], [], kind, color="0.3")[0] for kind in kinds.values()]
        axes.legend(lines, list(kinds), fontsize="small")


def draw_in_visdom(panels: dict[str, list[Curve]], rows: list[Row], opt: Config) -> list[str]:
    """Draws the mean curves into the page --env; returns a line. Nothing where there is no server."""
    if not opt.vis_port:
        return []
    with suppress(OSError):
        socket.create_connection((urlsplit(opt.vis_server).hostname, opt.vis_port), PATIENCE).close()
        import numpy as np

        from runs.sinks.visdom import open_page

        page = opt.env or "runs"
        vis = open_page(opt, page, warn=lambda line: None)
        labels = compare.labels(rows)
        for title, curves in panels.items():
            epochs = sorted({n for curve in curves for n in curve.epochs})
            values = [dict(zip(curve.epochs, curve.mean, strict=True)) for curve in curves]
            table = np.array([[value.get(n, np.nan) for value in values] for n in epochs])
            legend = [f"{labels[curve.row]} {curve.name}" for curve in curves]
            opts = {"title": title, "legend": legend, "xlabel": "epoch", "showlegend": True}
            vis.line(Y=table, X=np.array(epochs), win=f"runs {title}", opts=opts)
        vis.save()
        drawn = vis.close()
        return [f"visdom: drawn into the page {printable(page)}" if drawn else "visdom: not drawn: no answer in time"]
    return []
