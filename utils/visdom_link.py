"""The link to a visdom server: its address, the login, and questions that are answered in time or not at all."""

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

SERVER_TIMEOUT = 10.0  # s without an answer after which the server counts as hung; a slow one stays below
MAX_REASON = 200  # characters of what a server says of itself
MAX_ANSWER = 2**24  # bytes; a server whose answer is longer is none of visdom's

# A process forked in the middle of an import inherits its lock, held by a thread that it does not have. So a
# fork (of a data loader's worker) waits until visdom has been imported: 0.1 s where torch already is.
_importing = threading.Lock()
if hasattr(os, "register_at_fork"):
    _done = _importing.release
    os.register_at_fork(before=_importing.acquire, after_in_parent=_done, after_in_child=_done)


class ServerLostError(Exception):
    """The server is absent, hung, dead, not visdom's, or wants a login: the view ends.

    Args:
        remedy: what to do, where that is not to start a server.
    """

    def __init__(self, reason, remedy=""):
        super().__init__(reason)
        self.remedy = remedy


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


class VisdomLink:
    """Asks one server, and notes how long it takes.

    Attributes:
        asked_at: since when the server owes us an answer, by the monotonic clock; None: it owes none.
        answer_took: seconds, the last one. answered: whether there ever was one.
    """

    def __init__(self, env, port, server, base_url="", username=None, password=None, **kwargs):
        server = (server if "://" in server else f"http://{server}").rstrip("/")
        self.port, self.base_url, self.login = port, base_url.rstrip("/"), (username, password)
        self.url = f"{server}:{port}{self.base_url}"
        # visdom's own sending knows no timeouts and prints its troubles: `connect` puts `post` in its place
        silent = {"send": False, "use_incoming_socket": False, "use_polling": False}
        self.kwargs = kwargs | {"env": env, "port": port, "server": server, "base_url": self.base_url} | silent
        self.asked_at, self.answer_took, self.answered = None, 0.0, False

    @property
    def page(self):
        """The address of the page."""
        return f"{self.url}/env/{quote(self.kwargs['env'], safe='')}"

    def connect(self):
        """Returns a Visdom that sends through `post`. Importing it is dear: first ask the server."""
        given = self.kwargs
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")  # no proxy in between
        proxy = urllib.request.ProxyHandler({} if local else given.get("proxies"))
        self.opener = urllib.request.build_opener(proxy, urllib.request.HTTPCookieProcessor())
        if self.ask() == 400:  # visdom's answer to who has not logged in
            self.log_in()
        with _importing:
            import visdom
        vis: Any = visdom.Visdom(**given)
        vis.send, vis._handle_post = True, self.post
        return vis

    def ask(self):
        """Asks the server a question that any visdom server answers; returns the HTTP status, 200 or 400."""
        try:
            answer = self.post(f"{self.url}/win_exists", '{"win": ""}')
        except ServerLostError as e:
            if isinstance(e.__cause__, urllib.error.HTTPError) and e.__cause__.code == 400:
                return 400
            raise
        if answer not in ("true", "false"):
            raise ServerLostError("not a visdom server")
        return 200

    def log_in(self):
        """Logs in with the given name and password; visdom's page sends the password's SHA-256."""
        name, password = self.login
        remedy = "set VISDOM_USERNAME and VISDOM_PASSWORD to what it was started with"
        if not (name and password):
            raise ServerLostError("it wants a login", remedy)
        hashed = hashlib.sha256(password.encode()).hexdigest()
        try:
            self.post(self.url, json.dumps({"username": name, "password": hashed}))
        except ServerLostError as e:
            if isinstance(e.__cause__, urllib.error.HTTPError) and e.__cause__.code == 400:
                raise ServerLostError("wrong user name or password", remedy) from None
            raise
        if self.ask() == 400:
            raise ServerLostError("it wants a login again after one", remedy)

    def post(self, url, data):
        """Sends a text and returns the answer's."""
        url = self.url + quote(url.removeprefix(self.url))  # visdom puts names into addresses as they are
        request = urllib.request.Request(url, data.encode(), {"Content-Type": "application/json"})
        self.asked_at = time.monotonic()
        try:
            with self.opener.open(request, timeout=SERVER_TIMEOUT) as answer:
                text = read_all(answer)
        except urllib.error.HTTPError as e:
            if e.code == 500 and self.answered:  # it lives; only this drawing was not to its taste
                raise ValueError("refused by the server") from None
            raise ServerLostError(f"HTTP {e.code} {str(e.reason)[:MAX_REASON]}") from e
        except (OSError, http.client.HTTPException) as e:
            raise ServerLostError(str(getattr(e, "reason", None) or e or type(e).__name__)[:MAX_REASON]) from None
        finally:
            self.answer_took, self.asked_at = time.monotonic() - self.asked_at, None
        self.answered = True
        return text

    def how_to_start(self):
        """The command that starts a server here, or what to do on the server's machine."""
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        base = f" -base_url {self.base_url}" if self.base_url else ""
        command = f"python -m visdom.server -port {self.port}{base}"
        return f"{command} -bind_local" if local else f"{command} on {urlsplit(self.url).hostname}"
