"""A real visdom server for tests, without the download of the page's scripts by `python -m visdom.server`."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

START = "import logging; from visdom.server.run_server import main; logging.disable(logging.CRITICAL); main()"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def opener():
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())


@dataclass
class VisdomServer:
    port: int
    process: subprocess.Popen
    folder: str  # where it keeps its pages
    base_url: str = ""
    opener: urllib.request.OpenerDirector = field(default_factory=opener)

    def windows(self, env):
        """Returns the windows that the server holds: {window id: its JSON}, {} for an unknown environment."""
        if env not in self.ask("env_state", {}):
            return {}
        return self.ask("win_data", {"eid": env, "win": None})

    def ask(self, endpoint, question):
        """Returns the JSON that the server answers; None where it answers nothing."""
        url = f"http://127.0.0.1:{self.port}{self.base_url}/{endpoint}"
        with self.opener.open(url, json.dumps(question).encode(), timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def points(self, env, win, line=0):
        """Returns x and y of a line of a window, by default the first."""
        line = self.windows(env)[win]["content"]["data"][line]
        return line["x"], line["y"]

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def visdom_server(base_url="", login=None):
    """Starts a server on a free port; yields a VisdomServer. `login`: (user name, password) that it wants."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / ".visdom"  # the server keeps its cookie there
        folder.mkdir()
        command = [sys.executable, "-c", START, "-port", str(port), "-env_path", str(folder), "-bind_local"]
        command += ["-base_url", base_url] if base_url else []
        env = os.environ | {"HOME": home}
        if login:
            command += ["-enable_login", "-force_new_cookie"]
            env |= {"VISDOM_USE_ENV_CREDENTIALS": "1", "VISDOM_COOKIE": "secret"}
            env |= {"VISDOM_USERNAME": login[0], "VISDOM_PASSWORD": login[1]}
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(900):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, "the visdom server did not start"
                time.sleep(0.1)
            else:
                raise AssertionError("the visdom server did not start in 90 s")
            server = VisdomServer(port, process, str(folder), base_url)
            if login:
                password = hashlib.sha256(login[1].encode()).hexdigest()
                server.ask("", {"username": login[0], "password": password})
            yield server
        finally:
            process.kill()
            process.wait()
