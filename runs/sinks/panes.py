"""Where the windows of a visdom page stand, how large they are and what their plots look like.

visdom puts windows into rows, in the order in which they were made. Four columns fill a browser of 1280 x 800.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

COLUMN, GAP = 300, 10  # pixels
LOW, HIGH = 211, 451  # pixels; visdom adds its bar and rounds up: a high window is as two low ones and the gap
BAR = 16  # pixels of a window's height, which visdom forgets where it fits a picture in
MAX_WRITTEN = 12  # classes up to which the counts are written into the confusion matrix


@dataclass(frozen=True)
class Pane:
    """A window: kind is "plot", "matrix", "image" or "text"."""

    name: str
    kind: str = "plot"
    width: int = COLUMN
    height: int = LOW

    @property
    def by(self) -> str:
        """The axis of a plot."""
        return "step" if self.name.endswith("by step") or self.name == "learning rate" else "epoch"


TWO = 2 * COLUMN + GAP
LOG = Pane("log", "text", TWO)
LAYOUTS = {  # by task; what else there is comes after these
    "Classify": (
        *(Pane("loss"), Pane("accuracy"), Pane("learning rate"), Pane("images a second")),
        *(Pane("confusion matrix", "matrix"), Pane("predictions", "image", TWO), Pane("augmented", "image")),
        *(LOG, Pane("loss by step"), Pane("accuracy by step")),
    ),
    "Gan": (
        *(Pane("distance"), Pane("generator loss"), Pane("discriminator loss"), Pane("images a second")),
        *(Pane("generated images", "image", 455, HIGH), Pane("real images", "image", 455, HIGH)),
        Pane("log", "text", COLUMN, HIGH),
    ),
}
PICTURES = {
    ("Gan", "augmented"): "real images",
    ("Gan", "generated"): "generated images",
}  # what a task's picture shows, where that is not its name


def options(task: str, name: str, title: str, by: str) -> dict[str, Any]:
    """visdom's options of a window; of a plot also its layout, with the axis `by`."""
    known = {pane.name: pane for pane in (LOG, *LAYOUTS.get(task, ()))}
    pane = known.get(name, Pane(name))
    opts: dict[str, Any] = {"title": title, "width": pane.width, "height": pane.height}
    if pane.kind == "plot":
        opts |= {"layoutopts": {"plotly": _layout(name, by)}, "markers": by == "epoch", "markersize": 4}
    return opts


def fitted(image: np.ndarray, height: int) -> np.ndarray:
    """The picture (H, W, 3) with white below it, as visdom cuts off the end of what fills a window of `height`."""
    return np.pad(image, ((0, -(-len(image) * BAR // height)), (0, 0), (0, 0)), constant_values=255)


def _layout(name: str, by: str) -> dict[str, Any]:
    return {
        "title": {"text": name, "x": 0.02, "y": 0.97, "yanchor": "top", "font": {"size": 13}},
        "margin": {"l": 45, "r": 12, "t": 28, "b": 36},
        "xaxis": {"title": {"text": by, "standoff": 4, "font": {"size": 11}}, "nticks": 6},
        "yaxis": {"nticks": 6, "automargin": True},
        "font": {"size": 11},
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"},
        "modebar": {"remove": MODEBAR},
    }


# buttons that would cover the title; drag, double click and the wheel do the same
MODEBAR = ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d", "toImage", "select2d", "lasso2d"]


def matrix_layout(name: str, matrix: np.ndarray) -> dict[str, Any]:
    """Of a confusion matrix (K, K): true classes down, predicted ones to the right; with counts where K is small."""
    axis = {"type": "category", "automargin": True}
    layout = _layout(name, "predicted")
    layout["xaxis"] |= axis
    layout["yaxis"] = axis | {"title": {"text": "true", "standoff": 4, "font": {"size": 11}}, "autorange": "reversed"}
    written = len(matrix) <= MAX_WRITTEN and np.isfinite(matrix).all()
    half = matrix.max() / 2 if written else 0
    layout["annotations"] = [
        {
            "x": column,
            "y": row,
            "text": str(int(count)),
            "showarrow": False,
            "font": {"size": 11, "color": "black" if count > half else "white"},
        }
        for row, counts in enumerate(matrix.tolist() if written else [])
        for column, count in enumerate(counts)
    ]
    return {"plotly": layout}
