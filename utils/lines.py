"""Lines of a plot in visdom: the points that wait to be drawn, and what is drawn already."""

import math

import numpy as np

MAX_POINTS = 10_000  # waiting per window; above, every second one is dropped


class Lines:
    """The lines of one window: how far they have come, and their points that wait to be drawn.

    Attributes:
        names: in the legend; (None,) for a single line without one.
        whole: no point is ever dropped: what a record holds is in memory anyway.
    """

    def __init__(self, name, lock, opts):
        self.name, self.lock, self.opts = name, lock, opts
        self.names: tuple[str | None, ...] = (None,)
        self.xs, self.rows = [], []
        # the first points replace what an earlier run left in the window, or an empty plot
        self.count, self.update, self.whole = 0, None, False

    def add(self, x, values, opts):
        """A point of each line: values = {name: y}, with the same names each time."""
        x = self.count if x is None else float(x)
        if not math.isfinite(x):
            raise ValueError(f"x of {self.name!r} is {x}")
        if self.count and self.names != tuple(values):
            raise ValueError(f"{self.name!r} has the lines {self.names}, not {tuple(values)}")
        self.count, self.names = self.count + 1, tuple(values)
        if len(self.xs) >= MAX_POINTS and not self.whole:
            del self.xs[1::2], self.rows[1::2]
        self.xs.append(x)
        # JSON has no infinity: the page would stop
        self.rows.append([y if math.isfinite(y) else math.nan for y in values.values()])
        self.opts = opts

    def draw(self, vis):
        """Adds the points that wait; before the first ones, makes an empty plot."""
        with self.lock:
            xs, rows, self.xs, self.rows = self.xs, self.rows, [], []
            update, count = self.update, self.count
            if xs:
                self.update = "append"
            elif count:
                return
        opts = lower_title({"title": self.name, **self.opts})
        if self.names != (None,):
            opts = {"legend": list(self.names), **opts}
        ys = np.array(rows) if rows else np.array([[math.nan]])
        grid = np.repeat(np.array(xs or [0.0])[:, None], ys.shape[1], axis=1)
        if ys.shape[1] == 1:
            grid, ys = grid[:, 0], ys[:, 0]
        vis.line(Y=ys, X=grid, win=self.name, update=update, opts=opts)


def lower_title(opts):
    """Moves a plot's title below the buttons, which would cover it."""
    return {"layoutopts": {"plotly": {"title": {"text": opts["title"], "y": 0.88}}}, **opts}
