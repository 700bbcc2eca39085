"""The thread that draws into visdom, and the mailbox through which a run hands it drawings.

The training thread only leaves its drawings in the mailbox, which is bounded; the daemon thread takes them to the
server. So a server that is absent, slow, hung or killed costs the run nothing but one warning.
"""

import hashlib
import http.client
import json
import math
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import numpy as np

SERVER_TIMEOUT = 10.0  # s without an answer after which the server counts as hung; a slow one stays below
MAX_REASON = 200  # characters of what a server says of itself
MAX_ANSWER = 2**24  # bytes; a server whose answer is longer is none of visdom's
MIN_REST, MAX_REST = 0.5, 10.0  # s between two rounds of drawing
MAX_WAITING = 100  # pictures and passed-on calls in the mailbox; above, the oldest is dropped
MAX_POINTS = 10_000  # waiting per line; above, every second one is dropped

# A process forked in the middle of an import inherits its lock, held by a thread that it does not have. So a
# fork (of a data loader's worker) waits until visdom has been imported: 0.1 s where torch already is.
_importing = threading.Lock()
if hasattr(os, "register_at_fork"):
    _done = _importing.release
    os.register_at_fork(before=_importing.acquire, after_in_parent=_done, after_in_child=_done)


class ServerLostError(Exception):
    """The server is absent, hung, dead or not visdom's: the view ends."""


def read_all(answer):
    """The whole answer of a server as text.

    Raises:
        ServerLostError: it does not end within SERVER_TIMEOUT, or MAX_ANSWER.
    """
    end, parts, size = time.monotonic() + SERVER_TIMEOUT, [], 0
    while part := answer.read1(2**16):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER or time.monotonic() > end:
            raise ServerLostError("its answer does not end")
    return b"".join(parts).decode()


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
        except ServerLostError as e:
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
            raise ServerLostError("not a visdom server")
        with _importing:
            import visdom
        vis: Any = visdom.Visdom(**given)
        vis.send, vis._handle_post = True, self.post
        return vis

    def post(self, url, data):
        """Sends a text and returns the answer's."""
        request = urllib.request.Request(url, data.encode(), {"Content-Type": "application/json"})
        self.asked_at = time.monotonic()
        try:
            with self.opener.open(request, timeout=SERVER_TIMEOUT) as answer:
                text = read_all(answer)
        except urllib.error.HTTPError as e:
            if e.code == 500 and self.answered:  # it lives; only this drawing was not to its taste
                raise ValueError("refused by the server") from None
            raise ServerLostError(f"HTTP {e.code} {str(e.reason)[:MAX_REASON]}") from None
        except (OSError, http.client.HTTPException) as e:
            raise ServerLostError(str(getattr(e, "reason", None) or e or type(e).__name__)[:MAX_REASON]) from None
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
        except ServerLostError:
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
                f"visdom: no live view at {self.url} ({reason}); training goes on and its record is complete. "
                f"For a view: python -m visdom.server -port {self.port} -bind_local",
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
        opts = lower_title({"title": self.name, **self.opts})
        vis.line(Y=np.array(ys), X=np.array(xs), win=self.name, update=update, opts=opts)


def lower_title(opts):
    """Moves a plot's title below the buttons, which would cover it."""
    return {"layoutopts": {"plotly": {"title": {"text": opts["title"], "y": 0.88}}}, **opts}
