"""The live view draws what it is given, and a failing server costs the run one warning and no time."""

import base64
import contextlib
import io
import json
import math
import multiprocessing
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from visdom_server import free_port, visdom_server

import utils.pictures  # noqa: F401 - else imported in the middle of what is timed
from utils import lines, painter, visdom_link, visualize
from utils.visualize import Visualizer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def server():
    with visdom_server() as s:
        yield s


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def view(server, warnings, request):
    """A view of an environment of the test's own."""
    vis = Visualizer(request.node.name, port=server.port, warn=warnings.append)
    vis.server, vis.env = server, request.node.name
    yield vis
    vis.close()


def pixels(window):
    """(H, W, 3) uint8 of an image window."""
    png = base64.b64decode(window["content"]["src"].split(",")[1])
    return np.asarray(Image.open(io.BytesIO(png)))


# ---- what is drawn ----


def test_every_kind_of_drawing_arrives(view, warnings, capfd):
    for i in range(100):
        view.plot("loss", torch.tensor(1 / (i + 1), requires_grad=True))
        view.plot_many({"lr": 0.1 * i, "accuracy": i / 100}, x=10 * i)
    view.img("input", torch.rand(3, 8, 8))
    view.img_many({"gray": torch.rand(1, 8, 8), "matrix": np.eye(8), "batch": torch.rand(5, 3, 8, 8)})
    view.log("epoch 1: <b> & so on")
    view.log("epoch 2")
    view.heatmap(torch.eye(3), win="confusion", opts={"title": "confusion"})
    assert view.close()

    names = {"loss", "lr", "accuracy", "input", "gray", "matrix", "batch", "log_text", "confusion"}
    windows = view.server.windows(view.env)
    assert set(windows) == names
    assert all(windows[name]["title"] == name for name in names)
    x, y = view.server.points(view.env, "loss")
    assert x == list(range(100))
    assert y == pytest.approx([1 / (i + 1) for i in range(100)])
    assert view.server.points(view.env, "lr")[0] == [10 * i for i in range(100)]
    text = windows["log_text"]["content"]
    assert "epoch 1: &lt;b&gt; &amp; so on<br>[" in text
    assert windows["confusion"]["content"]["data"][0]["z"] == np.eye(3).tolist()
    assert warnings == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_line_grows_by_its_new_points_and_a_later_run_starts_it_anew(view, server, warnings):
    for part in range(3):
        for i in range(10):
            view.plot("loss", part * 10 + i)
        time.sleep(0.6)  # each part by its own call
    assert view.close()
    assert server.points(view.env, "loss") == (list(range(30)), list(range(30)))
    again = Visualizer(view.env, port=server.port, warn=warnings.append)
    again.plot("loss", 7)
    assert again.close()
    assert server.points(view.env, "loss") == ([0], [7])


def test_nan_and_infinity_leave_a_gap_that_the_page_can_read(view):
    view.plot_many({"loss": 1.0})
    view.plot("loss", math.nan)
    view.plot("loss", torch.tensor(-math.inf))
    view.heatmap(np.array([[1.0, np.inf]]), win="heat")
    assert view.close()
    assert view.server.points(view.env, "loss") == ([0, 1, 2], [1, None, None])
    text = json.dumps(view.server.windows(view.env))
    assert "NaN" not in text
    assert "Infinity" not in text


def test_images_are_scaled_clipped_and_copied_at_the_call(view):
    tensor = torch.full((3, 4, 4), 0.5)
    tensor[:, 0, 0] = 1.01  # a bit above 1 must not darken the rest
    view.img("float", tensor)
    tensor.zero_()
    dark = np.ones((4, 4), np.uint8)
    view.img("dark", dark)  # 1 of 255, not of 1
    batch = torch.zeros(10, 1, 4, 6, dtype=torch.bfloat16)
    view.img("batch", batch)
    assert view.close()
    windows = view.server.windows(view.env)
    assert pixels(windows["float"])[0, 0].tolist() == [255] * 3
    assert pixels(windows["float"])[1, 1].tolist() == [128] * 3
    assert pixels(windows["dark"]).max() == 1
    assert pixels(windows["batch"]).shape == (2 * 4 + 3 * 2, 8 * 6 + 9 * 2, 3)


def test_the_log_keeps_its_last_lines(view):
    for i in range(visualize.MAX_LOG_LINES + 10):
        view.log(f"line {i};")
    assert view.close()
    text = view.server.windows(view.env)["log_text"]["content"]
    assert text.count("<br>") == visualize.MAX_LOG_LINES - 1
    assert "line 9;" not in text
    assert f"line {visualize.MAX_LOG_LINES + 9};" in text


def test_reinit_goes_on_in_another_environment(view):
    view.plot("loss", 1)
    assert view.reinit(env=f"{view.env}_2") is view
    view.plot("loss", 2)
    assert view.close()
    assert view.server.points(view.env, "loss") == ([0], [1])
    assert view.server.points(f"{view.env}_2", "loss") == ([0], [2])


def test_a_mistake_is_told_once_and_the_rest_is_drawn(view, warnings):
    view.plot("loss", "not a number")
    view.plot("loss")
    view.img("vector", torch.zeros(3))
    view.heatmap(np.zeros(3), win="vector")
    view.no_such_plot(1)
    view.plot("loss", 1)
    assert view.close()
    assert len(warnings) == 1
    assert "plot" in warnings[0]
    assert view.server.points(view.env, "loss") == ([0], [1])


def test_random_numbers_are_not_touched(view):
    def state():
        return random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()

    before = state()
    view.plot("loss", 1)
    view.img("x", torch.zeros(8, 3, 4, 4))
    view.log("text")
    view.close()
    assert state() == before


def test_a_forked_process_draws_nothing_and_waits_for_nothing(view):
    def child():
        view.plot("loss", 2)
        view.log("from the child")
        view.close()

    view.plot("loss", 1)
    with view._painter.lock:  # as it may be at the moment of a fork
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(10)
    assert process.exitcode == 0
    assert view.close()
    assert view.server.points(view.env, "loss") == ([0], [1])


def test_underscore_names_are_no_drawings(view):
    with pytest.raises(AttributeError):
        view._repr_html_  # noqa: B018


def test_importing_it_imports_neither_torch_nor_visdom():
    code = "import sys, utils.visualize; sys.exit(bool({'torch', 'visdom', 'requests'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---- servers that fail ----


@contextmanager
def absent():
    yield free_port()


@contextmanager
def hung():
    """The kernel accepts; nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        yield s.getsockname()[1]


@contextmanager
def closing():
    """Accepts and closes."""
    with socket.create_server(("127.0.0.1", 0)) as s:

        def serve():
            while True:
                try:
                    s.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield s.getsockname()[1]
        s.shutdown(socket.SHUT_RDWR)


@contextmanager
def http_server(delay=0.0, status=200, bodies=None):
    """Answers "true" after `delay` s; `bodies` collects what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if bodies is not None:
                bodies.append(json.loads(body))
            time.sleep(delay)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads, httpd.block_on_close = True, False
        httpd.handle_error = lambda *args: None  # the client let go
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield httpd.server_address[1]
        httpd.shutdown()


@contextmanager
def streaming(answer=b"true", pause=0.0):
    """Answers without end, in parts."""
    with socket.create_server(("127.0.0.1", 0)) as s:

        def serve():
            with contextlib.suppress(OSError):
                connection = s.accept()[0]
                connection.recv(65536)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                while True:
                    connection.sendall(answer)
                    time.sleep(pause)

        threading.Thread(target=serve, daemon=True).start()
        yield s.getsockname()[1]


@pytest.mark.parametrize(("answer", "pause"), [(b"x" * 2**20, 0), (b"x", 0.01)])
def test_an_answer_without_end_takes_no_memory(answer, pause, warnings, monkeypatch):
    monkeypatch.setattr(visdom_link, "SERVER_TIMEOUT", 0.5)
    monkeypatch.setattr(visdom_link, "MAX_ANSWER", 2**22)
    with streaming(answer, pause) as port:
        vis = Visualizer("run", port=port, warn=warnings.append)
        vis._painter.join(10)
    assert not vis.alive and len(warnings) == 1 and "its answer does not end" in warnings[0]


def test_what_a_server_says_of_itself_is_one_printable_line(warnings):
    with socket.create_server(("127.0.0.1", 0)) as s:
        vis = Visualizer("run", port=s.getsockname()[1], warn=warnings.append)
        connection = s.accept()[0]
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 404 \x1b[31mred\x07 " + b"x" * 5000 + b"\r\n\r\n")
        connection.close()
        vis._painter.join(10)
    assert len(warnings) == 1 and warnings[0].isprintable() and len(warnings[0]) < 500 and "red" in warnings[0]


def not_visdom():
    return http_server(status=404)


def draw_200(vis):
    """Returns the seconds that 200 calls took."""
    image, matrix = torch.rand(16, 3, 32, 32), torch.rand(10, 10)
    start = time.perf_counter()
    for i in range(50):
        vis.plot("loss", i)
        vis.log(i)
        vis.img("image", image)
        vis.heatmap(matrix)
    return time.perf_counter() - start


@pytest.mark.parametrize("fault", [absent, closing, hung, not_visdom])
def test_a_failing_server_costs_one_warning(fault, warnings, capfd):
    with fault() as port:
        vis = Visualizer("run", port=port, warn=warnings.append)
        seconds = draw_200(vis)
        start = time.perf_counter()
        assert not vis.close()
        seconds_to_close = time.perf_counter() - start
        draw_200(vis)
    assert not vis.alive
    assert len(warnings) == 1
    assert f"python -m visdom.server -port {port}" in warnings[0]
    assert "\n" not in warnings[0]
    assert capfd.readouterr() == ("", "")
    print(f"{fault.__name__}: 200 calls {seconds * 1000:.0f} ms, close {seconds_to_close * 1000:.0f} ms")
    assert seconds < 0.5
    assert seconds_to_close < 1.5


def test_a_hung_server_is_given_up_in_the_middle_of_a_run(warnings, monkeypatch):
    monkeypatch.setattr(visdom_link, "SERVER_TIMEOUT", 0.3)
    with hung() as port:
        vis = Visualizer("run", port=port, warn=warnings.append)
        time.sleep(0.6)
        assert not vis.alive
        draw_200(vis)
        start = time.perf_counter()
        vis.close()
        assert time.perf_counter() - start < 0.1
    assert len(warnings) == 1


@pytest.mark.slow
def test_a_slow_server_is_no_failure(warnings, capfd):
    bodies = []
    with http_server(delay=2, bodies=bodies) as port:
        vis = Visualizer("run", port=port, warn=warnings.append)
        seconds = draw_200(vis)
        time.sleep(2.5)  # the answer to the first question comes
        assert vis.alive
        start = time.perf_counter()
        vis.close()
        seconds_to_close = time.perf_counter() - start
    assert warnings == []
    assert any(body.get("win") == "loss" for body in bodies)
    assert capfd.readouterr() == ("", "")
    print(f"slow: 200 calls {seconds * 1000:.0f} ms, close {seconds_to_close * 1000:.0f} ms")
    assert seconds < 0.5
    assert seconds_to_close < 0.5


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_one_warning(warnings, capfd):
    with visdom_server() as server:
        vis = Visualizer("run", port=server.port, warn=warnings.append)
        vis.plot("loss", 1)
        for _ in range(100):
            if "loss" in server.windows("run"):
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the line was not drawn in 5 s")
        server.kill()
        seconds = draw_200(vis)
        start = time.perf_counter()
        assert not vis.close()
        seconds_to_close = time.perf_counter() - start
    assert len(warnings) == 1
    assert capfd.readouterr() == ("", "")
    print(f"killed: 200 calls {seconds * 1000:.0f} ms, close {seconds_to_close * 1000:.0f} ms")
    assert seconds < 0.5
    assert seconds_to_close < 1.5


def test_each_point_is_sent_once(warnings):
    bodies = []
    with http_server(bodies=bodies) as port:
        vis = Visualizer("run", port=port, warn=warnings.append)
        for i in range(1000):
            vis.plot("loss", i)
            time.sleep(0.001)
        assert vis.close()
    sent = [body["data"][0]["y"] for body in bodies if "data" in body]
    assert sum(sent, []) == list(range(1000))
    assert 2 <= len(sent) < 10


def test_what_waits_is_bounded(warnings):
    with hung() as port:
        vis = Visualizer("run", port=port, warn=warnings.append)
        for i in range(3 * lines.MAX_POINTS):
            vis.plot("loss", i)
        for i in range(3 * painter.MAX_WAITING):
            vis.img(f"image {i}", torch.zeros(3, 4, 4))
            vis.text("x")
        waiting = vis._lines["loss"].xs
        assert waiting[0] == 0
        assert waiting[-1] == 3 * lines.MAX_POINTS - 1
        assert len(waiting) <= lines.MAX_POINTS
        assert len(vis._painter.drawings) <= painter.MAX_WAITING + 1
        vis.close()


def test_a_process_ends_promptly_without_close():
    with hung() as port:
        code = f"from utils.visualize import Visualizer; Visualizer(port={port}).plot('loss', 1)"
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert time.perf_counter() - start < 3
    assert done.returncode == 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("visdom: ")
