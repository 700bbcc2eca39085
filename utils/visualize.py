"""A live view of a run in visdom, as in the book, that cannot hurt the run: painter.py does the drawing."""

import atexit
import contextlib
import functools
import html
import itertools
import math
import os
import sys
import time
from collections import deque

import numpy as np

from utils.lines import Lines, lower_title
from utils.painter import Painter
from utils.text import printable

MAX_IMAGES = 64  # drawn of a batch
COLUMNS = 8  # of a grid
MAX_LOG_LINES = 500
MIN_SIDE = 256  # pixels; smaller pictures are shown enlarged
WINDOW_BAR = 15  # pixels of a window's height that visdom forgets
LOG_SIZE = {"width": 500, "height": 320}  # pixels
# fills the window, and shows the end as lines come
LOG_STYLE = "position:absolute; inset:14px 0 0 4px; overflow:auto; display:flex; flex-flow:column-reverse; "
LOG_STYLE += "font-size:12px; overflow-wrap:anywhere"


def _safe(method):
    """A call does nothing once the view is over, or in a forked process, and never raises."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        if self._painter.off or os.getpid() != self._painter.pid:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as e:
            self._tell("drawing", f"visdom: {method.__name__}() left out ({type(e).__name__}: {e})")

    return call


class Visualizer:
    """The book's wrapper of visdom. No call waits for the server or raises, and drawing calls return None.

    Give numbers where you have them: a tensor on a GPU has to be waited for.

    Args:
        env: the environment of visdom (a page of its own) to draw into.
        port, server: where the server runs.
        warn: called with the one line to show when the server fails, and with the first mistake in a drawing;
            it may be called from the drawing thread. Default: prints to stderr.
        greet: called with the address of the page once the server has answered, from the drawing thread.
        visdom_kwargs: to visdom.Visdom (base_url, username, password, proxies, log_to_filename).
    """

    def __init__(self, env="default", port=8097, server="http://localhost", warn=None, greet=None, **visdom_kwargs):
        self._warn = warn or (lambda line: print(line, file=sys.stderr))
        self._greet = greet or (lambda address: None)
        self.whole = False  # draw each point, however many wait: for a record that is drawn again
        self._settings = {"port": port, "server": server, **visdom_kwargs}
        self._painter = self._start(env)
        atexit.register(self.close)

    def reinit(self, env="default", **kwargs):
        """Goes on in another environment, with another `port`, `server`, ... if given. Returns self."""
        self.close()
        self._settings.update(kwargs)
        self._painter = self._start(env)
        return self

    @property
    def alive(self):
        """False once the server has failed or the view has been closed."""
        return not self._painter.off

    @property
    def loss(self):
        """Why the server is lost and what to do, in one line; "" while it is not."""
        return self._painter.loss

    @property
    def answered(self):
        """Whether the server has ever answered as a visdom server does."""
        return self._painter.connected.is_set()

    @_safe
    def reserve(self, name, **opts):
        """An empty plot: a window's place on the page is that of its first drawing."""
        with self._painter.lock:
            lines = self._lines.setdefault(name, Lines(name, self._painter.lock, opts))
            self._painter.put(("line", name), lines.draw)

    @_safe
    def plot(self, name, y, x=None, **opts):
        """Adds the point (x, y) to the line in the window `name`; x counts from 0 if not given.

        The first points replace the line that an earlier run left there. `opts`: visdom's, as `xlabel`.
        """
        self._add(name, {None: y}, x, opts)

    @_safe
    def plot_lines(self, name, values, x=None, **opts):
        """Adds a point to each of several lines in one window: values = {name in the legend: y}."""
        self._add(name, values, x, opts)

    def _add(self, name, values, x, opts):
        values = {key: y.item() if hasattr(y, "item") else float(y) for key, y in values.items()}
        with self._painter.lock:
            lines = self._lines.setdefault(name, Lines(name, self._painter.lock, opts))
            lines.whole = self.whole
            lines.add(x, values, opts)
            self._painter.put(("line", name), lines.draw)

    def plot_many(self, d, x=None, **opts):
        """Adds a point to several lines: d = {name: y}."""
        for name, y in d.items():
            self.plot(name, y, x, **opts)

    @_safe
    def img(self, name, tensor, **opts):
        """Shows (3, H, W), (1, H, W), (H, W), or (N, 3 or 1, H, W) as a grid of its first 64 images.

        Floats in [0, 1], integers in [0, 255]; others are clipped. `opts`: visdom's, as `caption`.
        """
        if tensor.ndim not in (2, 3, 4) or tensor.ndim > 2 and tensor.shape[-3] not in (1, 3):
            raise ValueError(f"{name!r} has the shape {tuple(tensor.shape)}")
        from utils.pictures import grid  # imports torch: here, and not in the thread that draws

        image = _copy(tensor[:MAX_IMAGES] if tensor.ndim == 4 else tensor)
        with self._painter.lock:
            self._painter.put(("img", name), functools.partial(_draw_image, name, image, grid, opts))

    def img_many(self, d, **opts):
        """Shows several pictures: d = {name: tensor}."""
        for name, tensor in d.items():
            self.img(name, tensor, **opts)

    @_safe
    def log(self, info, win="log_text", stamp=True, **opts):
        """Adds a line of text, with the time if `stamp`, to the window `win`, which keeps the last 500."""
        with self._painter.lock:
            lines = self._logs.setdefault(win, deque(maxlen=MAX_LOG_LINES))
            lines.append(time.strftime("[%m%d_%H%M%S] ") * stamp + html.escape(str(info)))
            self._painter.put(("log", win), functools.partial(_draw_log, win, lines, opts))

    @_safe
    def save(self, envs=None):
        """Has the server keep the page in a file, so that it outlives a restart. `envs`: default: the own one."""
        names = envs or [self._painter.link.kwargs["env"]]
        with self._painter.lock:
            self._painter.drawings.pop(("save",), None)  # it comes after all that waits
            self._painter.put(("save",), lambda vis: vis.save(names))

    def __getattr__(self, name):
        """Everything else goes to visdom as it is, as in `vis.heatmap(matrix, win="confusion")`."""
        if name.startswith("_"):
            raise AttributeError(name)

        def passed_on(self, *args, **kwargs):
            args, kwargs = _copy(args), _copy(kwargs)
            if "title" in (kwargs.get("opts") or {}):
                kwargs["opts"] = lower_title(kwargs["opts"])
            # a whole drawing replaces the one that waits for the same window; an addition to one does not
            whole = kwargs.get("win") and not (kwargs.get("update") or kwargs.get("append"))
            key = ("call", kwargs["win"] if whole else next(self._serial))
            with self._painter.lock:
                self._painter.put(key, lambda vis: getattr(vis, name)(*args, **kwargs))

        passed_on.__name__ = name
        return functools.partial(_safe(passed_on), self)

    def wait(self):
        """Waits until all is drawn, however long that takes. Returns False where the server is lost."""
        return self._painter.wait()

    def close(self, timeout=1.0):
        """Draws what is left while the server answers within `timeout` s, then ends the view.

        Takes 5 * `timeout` s at most, and none where the server has failed. Returns whether all was drawn.
        """
        if self._painter.off or os.getpid() != self._painter.pid:
            return False
        return self._painter.finish(timeout)

    def _start(self, env: str) -> Painter:
        """A painter that runs, with windows that are empty."""
        self._told: set[str] = set()
        self._lines: dict[str, Lines] = {}
        self._logs: dict[str, deque[str]] = {}
        self._serial = itertools.count()
        painter = Painter(self._tell, self._greet_once, env, **self._settings)
        painter.start()
        return painter

    def _greet_once(self, address):
        """Not once the view is over: a run that is closed has no log any more."""
        with contextlib.suppress(Exception):
            if self.alive:
                self._greet(address)

    def _tell(self, topic, line):
        """Warns once per topic; not even a broken `warn` may end a run."""
        if topic not in self._told:
            self._told.add(topic)
            with contextlib.suppress(Exception):
                self._warn(printable(" ".join(line.split())))


def _copy(value):
    """An argument with its tensors as NumPy copies, so that later changes in place do not show."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).cpu().numpy()  # NumPy has no bfloat16
    if isinstance(value, np.ndarray):
        value = value.copy()
        if value.dtype.kind == "f":
            value[np.isinf(value)] = np.nan
    elif isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    elif type(value) in (list, tuple):
        return type(value)(_copy(v) for v in value)
    return value


def _draw_image(name, image, grid, opts, vis):
    if image.dtype.kind in "fb":
        image = np.nan_to_num(image) * 255 + 0.5
    image = image.clip(0, 255).astype(np.uint8)
    if image.ndim == 4:
        image = grid(image.transpose(0, 2, 3, 1), columns=min(COLUMNS, len(image))).transpose(2, 0, 1)
    image = image.reshape(-1, *image.shape[-2:])
    image = image.repeat(3 // len(image), axis=0)
    zoom = math.ceil(MIN_SIDE / max(image.shape[1:]))
    size = {"width": image.shape[2] * zoom, "height": image.shape[1] * zoom + WINDOW_BAR}
    vis.image(image, win=name, opts={"title": name, **size, **opts})


def _draw_log(win, lines, opts, vis):
    text = f'<div style="{LOG_STYLE}"><div>{"<br>".join(lines)}</div></div>'
    vis.text(text, win=win, opts={"title": win, **LOG_SIZE, **opts})
