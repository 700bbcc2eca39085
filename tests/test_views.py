"""Views of the record: what they show is what it says, also of several runs, after a resume, and drawn again."""

import html
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from started import started
from visdom_server import free_port, visdom_server

import runs.sinks
from config import Config
from runs import replay
from runs.history import read
from runs.sinks import panes
from utils import checkpoints
from utils.errors import UsageError
from utils.visualize import Visualizer

FLAGS = ["--model=LeNet", "--dataset=MNIST", "--batch-size=32", "--max-epoch=2", "--num-workers=0", "--use-gpu=false"]
FLAGS += ["--amp=off", "--vis-port=None", "--threads=1", "--print-freq=1"]
STEPS = 8  # an epoch of the 240 digits

PROBE = """
import os, signal, sys
from pathlib import Path

class Probe:
    \"\"\"Writes down what it is shown; kills its process where KILL says.\"\"\"
    def __init__(self, folder):
        self.file = (folder / "probe.txt").open("a")
    @classmethod
    def create(cls, folder, opt, warn):
        return cls(folder)
    def show(self, text):
        print(text, file=self.file, flush=True)
        if os.environ.get("KILL") == text:
            os.kill(os.getpid(), signal.SIGKILL)
    def log_event(self, event):
        self.show(" ".join(str(event[k]) for k in ("kind", event["kind"]) if k in event))
    def log_image(self, name, image):
        self.show(f"{name} {image.shape[2]}")
    def log_net(self, net):
        self.show(f"net {sum(p.numel() for p in net.parameters())}")
    def close(self):
        self.show(f"closed {'torch' in sys.modules}")
"""


@pytest.fixture(scope="module")
def server():
    with visdom_server() as s:
        yield s


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A run that ends waits for a server that is slow because many tests run at a time."""
    monkeypatch.setattr(Visualizer.close, "__defaults__", (60.0,))


@pytest.fixture(scope="module")
def past(mnist, tmp_path_factory):
    """A run of two epochs, without views."""
    import main

    options = dict(flag.lstrip("-").replace("-", "_").split("=") for flag in FLAGS)
    return main.train(train_data_root=mnist, checkpoint_dir=tmp_path_factory.mktemp("past"), **options).folder


@pytest.fixture
def probe(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    return f"{tmp_path}/probe.py:Probe"


def record(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def shows_the_record(server, env, run, of=""):
    """Each line of the page is the record's, each point once."""
    windows = server.windows(env)
    shown = {
        (name.removesuffix(of), line["name"]): list(zip(line["x"], line["y"], strict=True))
        for name, window in windows.items()
        if window["type"] == "plot" and name.endswith(of)
        for line in window["content"]["data"]
        if line["type"] == "scatter"
    }
    steps, epochs = record(run, "step"), record(run, "epoch")
    expected = {("learning rate", "lr"): [(e["step"], e["lr"]) for e in steps]}
    expected |= {("images a second", "rate"): [(e["epoch"], e["rate"]) for e in epochs]}
    for name in ("loss", "accuracy"):
        expected[f"{name} by step", "train"] = [(e["step"], e[name]) for e in steps]
        expected[name, "train"] = [(e["epoch"], e[f"train_{name}"]) for e in epochs]
    for name in [name for name, value in epochs[0].items() if name.startswith("val_") and not isinstance(value, list)]:
        expected[name[4:].replace("_", " "), "val"] = [(e["epoch"], e[name]) for e in epochs]
    assert shown == expected
    assert windows[f"confusion matrix{of}"]["content"]["data"][0]["z"] == epochs[-1]["val_confusion"]
    assert windows[f"confusion matrix{of}"]["content"]["data"][0]["y"] == [str(i) for i in range(10)]
    log = windows[f"log{of}"]["content"].removesuffix("</div></div>").rpartition("<div>")[2].split("<br>")
    lines = [html.escape(line) for line in (run / "log.txt").read_text().splitlines()]
    assert [line for line in log if "visdom:" not in line] == [line for line in lines if "visdom:" not in line]


# ---- visdom ----


def test_the_page_shows_the_record_in_its_order_and_the_log_says_where_it_is(server, train):
    _, run = train(f"--vis-port={server.port}")
    shows_the_record(server, run.name, run)
    windows = sorted(server.windows(run.name).values(), key=lambda window: window["i"])
    first = [pane.name for pane in panes.LAYOUTS["Classify"]]
    assert [window["id"] for window in windows][: len(first)] == first
    assert all(window["title"] == window["id"] for window in windows)
    width, rows = 0, []
    for window in windows[: len(first)]:  # as the page fills rows of 1240 pixels
        width = window["width"] + panes.GAP if width + window["width"] > 1240 else width + window["width"] + panes.GAP
        rows += [window["height"]] if width == window["width"] + panes.GAP else []
    assert rows == [panes.LOW] * 3 and width == 1240
    assert windows[5]["type"] == windows[6]["type"] == "image"
    page = f"visdom: http://localhost:{server.port}/env/{run.name}"
    assert (run / "log.txt").read_text().splitlines().count(page) == 1


def test_runs_share_a_page_and_each_resumes_in_its_own_windows(server, train):
    """A name that has to be quoted."""
    flags = (f"--vis-port={server.port}", "--env=two & #2 runs")
    _, one = train(*flags, "--max-epoch=1")
    _, other = train(*flags, "--seed=1", "--max-epoch=1")
    train(f"--resume={one}", "--max-epoch=2")
    for run in (one, other):
        shows_the_record(server, "two & #2 runs", run, f" of {run.name}")
    windows = server.windows("two & #2 runs").values()
    assert all(one.name in window["title"] or other.name in window["title"] for window in windows)
    address = f"http://localhost:{server.port}/env/two%20%26%20%232%20runs"
    assert f"visdom: {address}" in (one / "log.txt").read_text()
    assert server.opener.open(address, timeout=10).status == 200


def test_visdom_compares_runs_with_pages_of_their_own(server, train):
    from visdom.utils.server_utils import compare_envs

    names = [train(f"--vis-port={server.port}", f"--seed={seed}", "--max-epoch=1")[1].name for seed in (0, 1)]
    sent = []
    socket = type("Socket", (), {"write_message": lambda self, message: sent.append(message)})()
    compare_envs({name: {"jsons": server.windows(name), "reload": {}} for name in names}, names, socket)
    plots = {m["title"]: m["content"]["data"] for m in sent if isinstance(m, dict) and m.get("type") == "plot"}
    assert sorted(line["name"] for line in plots["loss"]) == ["0_train", "0_val", "1_train", "1_val"]


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [
        ("ann", "s3cret", "visdom: http://localhost:{port}/base/env/"),
        ("ann", "wrong", "(wrong user name or password); training goes on"),
        ("", "", "(it wants a login); training goes on and its record is complete. For a view: set VISDOM_USERNAME"),
    ],
)
def test_a_server_with_a_login_and_a_base_url(name, password, says, train, monkeypatch):
    monkeypatch.setenv("VISDOM_USERNAME", name)
    monkeypatch.setenv("VISDOM_PASSWORD", password)
    with visdom_server("/base", ("ann", "s3cret")) as server:
        _, run = train(f"--vis-port={server.port}", "--vis-server=http://localhost/base", "--max-epoch=1")
        if password == "s3cret":
            shows_the_record(server, run.name, run)
    lines = [line for line in (run / "log.txt").read_text().splitlines() if line.startswith("visdom:")]
    assert len(lines) == 1 and says.format(port=server.port) in lines[0] and len(record(run, "epoch")) == 1
    kept = [path.read_bytes() for path in run.iterdir() if path.is_file()]
    assert not any(b"s3cret" in content or b"wrong" in content for content in kept[1:] if password != "wrong")


@pytest.mark.parametrize(
    "address", ["http://host:80", "http://ann:pw@host", "ftp://host", "http://", "http://host?x=1"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(UsageError, match="^vis_server takes text, not "):
        Config(vis_server=address)


def test_addresses_of_servers():
    for given, address in {
        "host": "http://host",
        "https://host/base/": "https://host/base",
        "http://[::1]": "http://[::1]",
    }.items():
        assert Config(vis_server=given).vis_server == address


# ---- replay ----


def test_replay_draws_the_record_and_waits_for_all_of_it(past, server, command):
    code, out, err = command("replay", past, f"--vis-port={server.port}")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{past.name} in visdom: 2 epochs, {2 * STEPS} steps, 3 pictures"
    shows_the_record(server, past.name, past)
    command("replay", past, f"--vis-port={server.port}", "--env=shared")
    shows_the_record(server, "shared", past, f" of {past.name}")


def test_replay_says_what_is_missing(past, command, tmp_path):
    port = free_port()
    for words, answer in {
        (past, f"--vis-port={port}"): f"no visdom page at http://localhost:{port} (",
        (past, "--vis-port=None"): "--to=visdom has nowhere to draw: leave out --vis-port=None",
        (past, "--to=visdm"): "--to=visdm is no view: it takes tensorboard, visdom, or path/to/file.py:Class."
        " Did you mean visdom?",
        (tmp_path,): f"{tmp_path} is no run: it holds no metrics.jsonl",
        (): "name one or more runs",
    }.items():
        code, out, err = command("replay", *words)
        assert (code, out) == (2, "") and answer in err and err.count("\n") == 1, err
    assert "python -m visdom.server -port" in command("replay", past, f"--vis-port={port}")[2]


def test_a_sink_of_the_users_gets_all_in_order_and_torch_is_not_imported(past, probe):
    words = ["main.py", "replay", str(past), f"--to={probe}"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [[f"step {n}" for n in range(k, k + STEPS)] for k in (1, STEPS + 1)]
    pictures = ["predictions 3"]
    expected = ["start", "augmented 3", *steps[0], "epoch 1", *pictures, *steps[1], "epoch 2", *pictures]
    shown = (past / "probe.txt").read_text().splitlines()
    (past / "probe.txt").unlink()
    assert shown == [*expected, "closed False"]


# ---- TensorBoard ----


def scalars(folder):
    """{tag: [(step, value), ...]} as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0}).Reload()
    found = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    for kind in ("images", "histograms"):
        found |= {
            f"{kind}/{tag}": [(e.step, None) for e in getattr(read, kind.title())(tag)] for tag in read.Tags()[kind]
        }
    return found | ({"graph": []} if read.Tags()["graph"] else {})


def tensorboard_has_the_record(run, trained=True):
    steps, epochs = record(run, "step"), record(run, "epoch")

    def points(events, name):
        return [(e["step"], np.float32(e[name])) for e in events]

    train, val = scalars(run / "tensorboard" / "train"), scalars(run / "tensorboard" / "val")
    for name in ("loss", "accuracy"):
        assert train.pop(name) == points(epochs, f"train_{name}")
        assert train.pop(f"by step/{name}") == points(steps, name)
    assert train.pop("images a second") == points(epochs, "rate")
    assert train.pop("learning rate") == points(steps, "lr")
    assert not train
    names = [name for name, value in epochs[0].items() if name.startswith("val_") and not isinstance(value, list)]
    assert val == {name.removeprefix("val_"): points(epochs, name) for name in names}
    other, ends = scalars(run / "tensorboard"), [e["step"] for e in epochs]
    assert other.pop("images/augmented") == [(0, None)]
    assert other.pop("images/predictions") == [(end, None) for end in ends]
    assert ("graph" in other) == trained and (not trained or len(other) > 10)
    assert all(found == [(end, None) for end in ends] for tag, found in other.items() if tag != "graph")
    best = scalars(run / "tensorboard" / "hparams")
    assert best["best/accuracy"] == points(
        [max(epochs, key=lambda e: (e["val_accuracy"], -e["val_loss"]))], "val_accuracy"
    )
    assert best["last/loss"] == points(epochs[-1:], "val_loss")


def test_tensorboard_has_the_record_and_the_weights_do_not_change(past, train):
    _, run = train("--tensorboard")
    tensorboard_has_the_record(run)
    one, other = (checkpoints.read(folder / "last.pth")["net"] for folder in (past, run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for epochs in (3, 4):
        time.sleep(1.1)  # TensorBoard reads files in the order of their seconds
        train(f"--resume={run}", f"--max-epoch={epochs}")
    assert len(record(run, "epoch")) == 4
    tensorboard_has_the_record(run)


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["step 13", "net 61706", "epoch 1"])
def test_tensorboard_after_a_killed_run(kill, mnist, tmp_path, probe, train):
    """Killed past its last checkpoint: in the middle of an epoch, after an epoch's flush, at an epoch's entry."""
    words = [
        *FLAGS,
        f"--train-data-root={mnist}",
        f"--checkpoint-dir={tmp_path}/runs",
        "--tensorboard",
        "--save-every=5",
    ]
    if kill.startswith("net"):  # the first one comes before the first step
        kill = "predictions 3"
    process = started("train", *words, f"--sinks={probe}", before=lambda: os.environ.update(KILL=kill))
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    (run,) = (tmp_path / "runs").iterdir()
    train(f"--resume={run}", f"--sinks={probe}")
    assert len(record(run, "step")) == 2 * STEPS
    tensorboard_has_the_record(run)


def test_replay_for_tensorboard(past, command):
    code, out, err = command("replay", past, "--to=tensorboard")
    assert (code, err) == (0, ""), err
    tensorboard_has_the_record(past, trained=False)
    code, _, err = command("replay", past, "--to=tensorboard")
    assert code == 2 and "shows this run already: remove it" in err


def test_without_the_package_it_is_one_line(past, command, monkeypatch, tmp_path):
    monkeypatch.setattr(runs.sinks, "find_spec", lambda name: None)
    for words in (
        ["train", "--tensorboard", f"--checkpoint-dir={tmp_path}/runs"],
        ["replay", past, "--to=tensorboard"],
    ):
        code, out, err = command(*words)
        assert (code, out) == (2, "") and "pip install tensorboard" in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


# ---- sinks ----


def test_a_sink_sees_the_net_and_what_came_before_a_resume(train, tmp_path):
    shown = []

    class Seen(runs.sinks.Sink):
        def replay(self, events):
            shown.append([event["kind"] for event in events].count("step"))

        def log_net(self, net):
            shown.append(type(net).__name__)

    from main import train as run_training

    _, run = train("--max-epoch=1")
    run_training(resume=run, max_epoch=2, sinks=Seen)
    assert shown == [STEPS, "LeNet", "LeNet"]


def test_the_order_of_a_record_that_was_resumed():
    entries = [
        {"kind": "resume", "config": {}, "time": 1},
        {"kind": "step", "step": 2},
        {"kind": "epoch", "epoch": 1, "step": 2},
    ]
    history = type("Run", (), {"start": entries[0], "steps": [{"kind": "step", "step": 1}, entries[1]]})
    history.epochs, history.others = [entries[2]], []
    assert [e["kind"] for e in replay.in_order(history)] == ["start", "step", "step", "epoch"]
    assert read(Path("nowhere")) is None
