"""A live view of a run in visdom, as in the book, that cannot hurt the run.

The training thread only leaves its drawings in a bounded mailbox; one daemon thread takes them to the server.
So a server that is absent, slow, hung or killed costs the run nothing but one warning.
"""

import atexit
import contextlib
import functools
import hashlib
import html
import http.client
import itertools
import json
import math
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from urllib.parse import urlsplit

import numpy as np

SERVER_TIMEOUT = 10.0  # s without an answer after which the server counts as hung; a slow one stays below
MIN_REST, MAX_REST = 0.5, 10.0  # s between two rounds of drawing
MAX_WAITING = 100  # pictures and passed-on calls in the mailbox; above, the oldest is dropped
MAX_POINTS = 10_000  # waiting per line; above, every second one is dropped
MAX_IMAGES = 64  # drawn of a batch
MAX_LOG_LINES = 500
MIN_SIDE = 256  # pixels; smaller pictures are shown enlarged
WINDOW_BAR = 15  # pixels of a window's height that visdom forgets
LOG_SIZE = {"width": 500, "height": 320}  # pixels
# fills the window, and shows the end as lines come
LOG_STYLE = "position:absolute; inset:14px 0 0 4px; overflow:auto; display:flex; flex-flow:column-reverse"

# A process forked in the middle of an import inherits its lock, held by a thread that it does not have. So a
# fork (of a data loader's worker) waits until visdom has been imported: 0.1 s where torch already is.
_importing = threading.Lock()
if hasattr(os, "register_at_fork"):
    _done = _importing.release
    os.register_at_fork(before=_importing.acquire, after_in_parent=_done, after_in_child=_done)


class ServerLost(Exception):
    """The server is absent, hung, dead or not visdom's: the view ends."""


class Painter(threading.Thread):
    """The thread that draws, and its mailbox: `drawings[key] = function(vis)`, where newer replaces older."""

    def __init__(self, tell, env, port, server, **visdom_kwargs):
        super().__init__(name="visdom-painter", daemon=True)
        server = (server if "://" in server else f"http://{server}").rstrip("/")
        self.tell, self.port, self.pid = tell, port, os.getpid()
        self.url = f"{server}:{port}{visdom_kwargs.get('base_url', '').rstrip('/')}"
        # visdom's own sending knows no timeouts and prints its troubles: `connect` puts `post` in its place
        silent = {"send": False, "use_incoming_socket": False, "use_polling": False}
        self.visdom_kwargs = visdom_kwargs | {"env": env, "port": port, "server": server} | silent
        self.lock = threading.Lock()  # guards the mailbox and the lines; nobody waits for anything under it
        self.drawings = {}
        self.filled, self.closing = threading.Event(), threading.Event()
        self.asked_at = None  # since when the server owes us an answer
        self.answer_took = 0.0  # s, the last one
        self.answered = self.off = False

    def put(self, key, drawing):
        """Leaves a drawing in the mailbox; the caller holds the lock."""
        self.drawings[key] = drawing
        others = [k for k in self.drawings if k[0] != "line"]  # a line is bounded by itself
        for oldest in others[:-MAX_WAITING]:
            del self.drawings[oldest]
        self.filled.set()

    def run(self):
        try:
            vis = self.connect()
            while not self.off:
                self.filled.wait()
                self.filled.clear()
                start = time.monotonic()
                for _ in range(len(self.drawings)):
                    self.draw_one(vis)
                if self.closing.is_set() and not self.drawings:
                    return
                # busy a tenth of the time at most, and so the server, whose work grows with the lines
                self.closing.wait(min(max(MIN_REST, 10 * (time.monotonic() - start)), MAX_REST))
        except ServerLost as e:
            self.give_up(str(e))
        except Exception as e:  # visdom is not installed, or does not know an argument
            self.give_up(f"{type(e).__name__}: {e}")

    def connect(self):
        """Returns a Visdom that sends through `post`. Importing it is dear: first ask the server."""
        given = self.visdom_kwargs
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")  # no proxy in between
        proxy = urllib.request.ProxyHandler({} if local else given.get("proxies"))
        login = urllib.request.HTTPCookieProcessor()
        self.opener = urllib.request.build_opener(proxy, login)
        if given.get("username"):
            password = hashlib.sha256(given["password"].encode()).hexdigest()
            self.post(self.url, json.dumps({"username": given["username"], "password": password}))
        if self.post(f"{self.url}/win_exists", '{"win": ""}') not in ("true", "false"):
            raise ServerLost("not a visdom server")
        with _importing:
            import visdom
        vis = visdom.Visdom(**given)
        vis.send, vis._handle_post = True, self.post
        return vis

    def post(self, url, data):
        """Sends a text and returns the answer's."""
        request = urllib.request.Request(url, data.encode(), {"Content-Type": "application/json"})
        self.asked_at = time.monotonic()
        try:
            with self.opener.open(request, timeout=SERVER_TIMEOUT) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as e:
            if e.code == 500 and self.answered:  # it lives; only this drawing was not to its taste
                raise ValueError("refused by the server") from None
            raise ServerLost(f"HTTP {e.code} {e.reason}") from None
        except (OSError, http.client.HTTPException) as e:
            raise ServerLost(getattr(e, "reason", None) or e or type(e).__name__) from None
        finally:
            self.answer_took, self.asked_at = time.monotonic() - self.asked_at, None
        self.answered = True
        return text

    def draw_one(self, vis):
        """Draws what has waited longest."""
        with self.lock:
            if not self.drawings:
                return
            drawing = self.drawings.pop(next(iter(self.drawings)))
        try:
            drawing(vis)
        except ServerLost:
            raise
        except Exception as e:  # a mistake in one drawing: the others go on
            self.tell("drawing", f"visdom: a drawing was left out ({type(e).__name__}: {e})")

    def give_up(self, reason):
        """Ends the view for good and says so."""
        with self.lock:
            was_off, self.off = self.off, True
            self.drawings.clear()
        if not was_off:
            self.tell(
                "server",
                f"visdom: no live view at {self.url} ({reason}). Training goes on and nothing is lost: "
                "the run's own record has every value. "
                f"To start a server: python -m visdom.server -port {self.port}",
            )

    def finish(self, timeout):
        """Draws what waits while answers come within `timeout`, 5 times that in all; returns if done."""
        self.closing.set()
        self.filled.set()
        end = time.monotonic() + 5 * timeout
        while self.is_alive() and time.monotonic() < end:
            asked_at = self.asked_at
            if max(self.answer_took, time.monotonic() - asked_at if asked_at else 0) > timeout:
                break
            self.join(0.01)
        done = not self.is_alive() and not self.off
        if not done and not self.answered:
            self.give_up("no answer")
        with self.lock:
            self.off = True
            self.drawings.clear()
        return done


class Line:
    """One line: how far it has come, and its points that wait to be drawn."""

    def __init__(self, name, lock):
        self.name, self.lock, self.opts = name, lock, {}
        self.xs, self.ys = [], []
        self.count, self.update = 0, None  # the first points replace what an earlier run left in the window

    def add(self, x, y, opts):
        x = self.count if x is None else float(x)
        if not math.isfinite(x):
            raise ValueError(f"x of {self.name!r} is {x}")
        self.count += 1
        if len(self.xs) >= MAX_POINTS:
            del self.xs[1::2], self.ys[1::2]
        self.xs.append(x)
        self.ys.append(y if math.isfinite(y) else math.nan)  # JSON has no infinity: the page would stop
        self.opts = opts

    def draw(self, vis):
        with self.lock:
            xs, ys, self.xs, self.ys = self.xs, self.ys, [], []
            update, self.update = self.update, "append"
        opts = _lower_title({"title": self.name, **self.opts})
        vis.line(Y=np.array(ys), X=np.array(xs), win=self.name, update=update, opts=opts)


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


def _lower_title(opts):
    """Moves a plot's title below the buttons, which would cover it."""
    return {"layoutopts": {"plotly": {"title": {"text": opts["title"], "y": 0.88}}}, **opts}


def _grid(images, columns=8, gap=2):
    """(N, C, H, W) -> (C, rows * (H + gap) + gap, columns * (W + gap) + gap), white between the images."""
    n, c, h, w = images.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    grid = np.full((c, rows * (h + gap) + gap, columns * (w + gap) + gap), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap) + gap, i % columns * (w + gap) + gap
        grid[:, top : top + h, left : left + w] = image
    return grid


def _draw_image(name, image, opts, vis):
    if image.dtype.kind in "fb":
        image = np.nan_to_num(image) * 255 + 0.5
    image = image.clip(0, 255).astype(np.uint8)
    image = _grid(image) if image.ndim == 4 else image.reshape(-1, *image.shape[-2:])
    image = image.repeat(3 // len(image), axis=0)
    zoom = math.ceil(MIN_SIDE / max(image.shape[1:]))
    size = {"width": image.shape[2] * zoom, "height": image.shape[1] * zoom + WINDOW_BAR}
    vis.image(image, win=name, opts={"title": name, **size, **opts})


def _draw_log(win, lines, vis):
    text = f'<div style="{LOG_STYLE}"><div>{"<br>".join(lines)}</div></div>'
    vis.text(text, win=win, opts={"title": win, **LOG_SIZE})


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
        visdom_kwargs: to visdom.Visdom (base_url, username, password, proxies, log_to_filename).
    """

    def __init__(self, env="default", port=8097, server="http://localhost", warn=None, **visdom_kwargs):
        self._warn = warn or (lambda line: print(line, file=sys.stderr))
        self._settings = {"port": port, "server": server, **visdom_kwargs}
        self._painter = None
        self.reinit(env)
        atexit.register(self.close)

    def reinit(self, env="default", **kwargs):
        """Goes on in another environment, with another `port`, `server`, ... if given. Returns self."""
        if self._painter:
            self.close()
        self._settings.update(kwargs)
        self._told, self._lines, self._logs, self._serial = set(), {}, {}, itertools.count()
        self._painter = Painter(self._tell, env, **self._settings)
        self._painter.start()
        return self

    @property
    def alive(self):
        """False once the server has failed or the view has been closed."""
        return not self._painter.off

    @_safe
    def plot(self, name, y, x=None, **opts):
        """Adds the point (x, y) to the line in the window `name`; x counts from 0 if not given.

        The first points replace the line that an earlier run left there. `opts`: visdom's, as `xlabel`.
        """
        y = y.item() if hasattr(y, "item") else float(y)
        with self._painter.lock:
            line = self._lines.setdefault(name, Line(name, self._painter.lock))
            line.add(x, y, opts)
            self._painter.put(("line", name), line.draw)

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
        image = _copy(tensor[:MAX_IMAGES] if tensor.ndim == 4 else tensor)
        with self._painter.lock:
            self._painter.put(("img", name), functools.partial(_draw_image, name, image, opts))

    def img_many(self, d, **opts):
        """Shows several pictures: d = {name: tensor}."""
        for name, tensor in d.items():
            self.img(name, tensor, **opts)

    @_safe
    def log(self, info, win="log_text"):
        """Adds a line of text with the time to the window `win`, which keeps the last 500."""
        with self._painter.lock:
            lines = self._logs.setdefault(win, deque(maxlen=MAX_LOG_LINES))
            lines.append(f"{time.strftime('[%m%d_%H%M%S]')} {html.escape(str(info))}")
            self._painter.put(("log", win), functools.partial(_draw_log, win, lines))

    def __getattr__(self, name):
        """Everything else goes to visdom as it is, as in `vis.heatmap(matrix, win="confusion")`."""
        if name.startswith("_"):
            raise AttributeError(name)

        def passed_on(self, *args, **kwargs):
            args, kwargs = _copy(args), _copy(kwargs)
            if "title" in (kwargs.get("opts") or {}):
                kwargs["opts"] = _lower_title(kwargs["opts"])
            # a whole drawing replaces the one that waits for the same window; an addition to one does not
            whole = kwargs.get("win") and not (kwargs.get("update") or kwargs.get("append"))
            key = ("call", kwargs["win"] if whole else next(self._serial))
            with self._painter.lock:
                self._painter.put(key, lambda vis: getattr(vis, name)(*args, **kwargs))

        passed_on.__name__ = name
        return functools.partial(_safe(passed_on), self)

    def close(self, timeout=1.0):
        """Draws what is left while the server answers within `timeout` s, then ends the view.

        Takes 5 * `timeout` s at most, and none where the server has failed. Returns whether all was drawn.
        """
        if self._painter.off or os.getpid() != self._painter.pid:
            return False
        return self._painter.finish(timeout)

    def _tell(self, topic, line):
        """Warns once per topic; not even a broken `warn` may end a run."""
        if topic not in self._told:
            self._told.add(topic)
            with contextlib.suppress(Exception):
                self._warn(" ".join(line.split()))
