"""A real visdom server for tests, without the download of the page's scripts by `python -m visdom.server`."""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass

START = """
import logging, sys
from visdom.server.run_server import start_server
logging.disable(logging.CRITICAL)
start_server(port=int(sys.argv[1]), base_url="", env_path=sys.argv[2], bind_local=True)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class VisdomServer:
    port: int
    process: subprocess.Popen
    folder: str  # where it keeps its pages

    def windows(self, env):
        """Returns the windows that the server holds: {window id: its JSON}, {} for an unknown environment."""
        if env not in self.ask("env_state", {}):
            return {}
        return self.ask("win_data", {"eid": env, "win": None})

    def ask(self, endpoint, question):
        """Returns the JSON that the server answers."""
        url = f"http://127.0.0.1:{self.port}/{endpoint}"
        with urllib.request.urlopen(url, json.dumps(question).encode(), timeout=10) as answer:
            return json.loads(answer.read())

    def points(self, env, win):
        """Returns x and y of a window's first line."""
        line = self.windows(env)[win]["content"]["data"][0]
        return line["x"], line["y"]

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def visdom_server():
    """Starts a server on a free port; yields a VisdomServer."""
    port = free_port()
    with tempfile.TemporaryDirectory() as env_path:
        command = [sys.executable, "-c", START, str(port), env_path]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, "the visdom server did not start"
                time.sleep(0.1)
            else:
                raise AssertionError("the visdom server did not start in 30 s")
            yield VisdomServer(port, process, env_path)
        finally:
            process.kill()
            process.wait()
