"""`report`: a page that holds the record's numbers, needs nothing else, and lets no text of outside act."""

import html
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, locked, train_in
from made_records import events_of, write_run
from PIL import Image

from engine import provenance
from report import charts
from report import html as pieces
from report.scale import Scale, thinned
from report.sections import pictures

EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style></title>'\u202e&amp;", "\ud800"]


class Page(HTMLParser):
    """A page as a browser reads it: its tags, its text, and the data of its charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.charts = [json.loads(given["data-chart"]) for _, given in self.tags if "data-chart" in given]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th") else ""

    def given(self, tag: str) -> list[dict]:
        return [given for name, given in self.tags if name == tag]

    def lines(self, x: str) -> dict[str, list]:
        """{name: [xs, ys, ...]} of all charts over `x`."""
        return {line["n"]: line["v"] for chart in self.charts if chart["x"] == x for line in chart["lines"]}


@pytest.fixture
def report(command, tmp_path):
    """Runs `report`; returns (the page, what was printed)."""

    def make(*words: object, gallery: bool = False) -> tuple[Page, str]:
        path = tmp_path / "made.html"
        flags = [] if gallery else ["--no-gallery"]
        code, out, err = command("report", *words, *flags, f"--report-file={path}")
        assert code == 0, err
        return Page(path.read_text(encoding="utf-8")), out

    return make


@pytest.fixture(scope="module")
def trained(dogcat, tmp_path_factory) -> Path:
    folder, data = tmp_path_factory.mktemp("trained"), f"--train-data-root={dogcat}/train"
    return train_in(folder, "--model=small_net:SmallNet", "--image-size=16", data, "--max-epoch=3")


# ---- what it holds


def test_the_page_of_a_training(trained, command):
    code, out, err = command("report", trained, "--no-gallery")
    assert code == 0, err
    path = trained / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    size = f"{path}: {path.stat().st_size / 1000:.0f} KB, 6 sections; open it in a browser"
    assert out.splitlines() == ["without what shows single images: left out by --no-gallery", size]
    epochs, (start,) = events_of(trained, "epoch"), events_of(trained, "start")
    losses = next(
        chart for chart in page.charts if [line["n"] for line in chart["lines"]] == ["validation", "training"]
    )
    for line, name in zip(losses["lines"], ("val_loss", "train_loss"), strict=True):
        assert line["v"] == [[1, 2, 3], pytest.approx([epoch[name] for epoch in epochs], rel=1e-5)]
    best = max(epochs, key=lambda e: (e["val_accuracy"], -e["val_loss"]))
    shown = [f"{best['val_accuracy']:.2%}", f"{best['val_loss']:.4g}", f"{epochs[-1]['train_loss']:.4g}"]
    shown += [
        "small_net:SmallNet",
        start["python"],
        start["torchvision"],
        start["images"]["val_files"][:16],
        "finished",
    ]
    shown += ["Augmentation"[:7].lower(), "Training images as the net sees them", "python main.py train --config="]
    assert [text for text in shown if text not in page.text] == []
    assert page.tags[0] == ("html", {"lang": "en"}) and page.given("h1") and page.given("title")
    assert len(page.given("h2")) == 6 and {"width=device-width, initial-scale=1"} <= {
        m.get("content") for m in page.given("meta")
    }
    assert page.given("img") and all(given["alt"] for given in page.given("img"))


def test_nothing_is_loaded(trained, report):
    page, _ = report(trained)
    policy = next(given["content"] for given in page.given("meta") if "http-equiv" in given)
    assert policy.startswith("default-src 'none'; img-src data:;") and "http" not in policy
    assert all(given["src"].startswith("data:image/") for given in page.given("img"))
    assert all(given["href"].startswith("#") for given in page.given("a"))
    assert not page.given("link") and not page.given("iframe") and not any("src" in g for g in page.given("script"))
    style = (ROOT / "report" / "page.css").read_text() + (ROOT / "report" / "page.js").read_text()
    assert not re.search(r"https?:|@import|url\(|fetch|XMLHttp|innerHTML|eval", style)


def test_the_best_net_is_evaluated_unless_that_cannot_be(trained, report, tmp_path):
    """A net of the user's own is run only if it is named again."""
    assert "main.py" not in report(trained, "--model=small_net:SmallNet", gallery=True)[1]
    bare = shutil.copytree(trained, tmp_path / "bare", ignore=shutil.ignore_patterns("*.pth"))
    page, out = report(bare, gallery=True)
    assert out.startswith("without what shows single images: ") and len(out.splitlines()) == 2
    assert "Without what shows single images:" in page.text and len(page.charts) > 4


def test_runs_side_by_side(report, tmp_path):
    """Seeds are one line in a band; what differs comes first."""
    runs = [write_run(tmp_path / f"s{seed}", seed=seed) for seed in range(3)] + [write_run(tmp_path / "hot", lr=0.25)]
    page, _ = report(*runs)
    line = page.lines("epoch")["s0 and 2 more seeds"]
    losses = [[epoch["val_loss"] for epoch in events_of(run, "epoch")] for run in runs[:3]]
    chart = next(chart for chart in page.charts if chart["x"] == "epoch")
    xs, mean, low, high = chart["lines"][0]["v"]
    assert xs == [1, 2, 3, 4, 5] and len(line) == 4 and len(chart["lines"]) == 4
    assert mean == pytest.approx([statistics.fmean(values) for values in zip(*losses, strict=True)], rel=1e-5)
    assert low == pytest.approx([min(values) for values in zip(*losses, strict=True)], rel=1e-5)
    assert high == pytest.approx([max(values) for values in zip(*losses, strict=True)], rel=1e-5)
    best = [max(epoch["val_accuracy"] for epoch in events_of(run, "epoch")) for run in runs[:3]]
    assert f"{statistics.fmean(best):.2%} ± {statistics.stdev(best):.2%} (n 3)" in page.text
    options = page.text[page.text.index("What differs") :]
    assert re.match(
        r"What differs \(.*\):\s+s0 and 2 more seeds\s*hot\s+lr\s*0.001\s*0.25\s+seeds\s*0, 1, 2\s*0", options
    )


def test_seeds_have_a_mean_where_all_have_a_value(report, tmp_path):
    runs = [write_run(tmp_path / "a", seed=0), write_run(tmp_path / "b", seed=1)]
    text = (runs[1] / "metrics.jsonl").read_text().splitlines()
    (runs[1] / "metrics.jsonl").write_text("\n".join(line for line in text if '"epoch": 3' not in line))
    page, _ = report(*runs)
    assert page.lines("epoch")["a and 1 more seed"][0] == [1, 2, 4, 5]


def test_classes_the_worst_first_and_the_most_confused(report, tmp_path):
    names = [f"kind {k}" for k in range(20)]
    run = write_run(tmp_path / "run", classes=names)
    page, _ = report(run)
    last = events_of(run, "epoch")[-1]
    worst = min(range(20), key=lambda k: last["val_class_accuracy"][k])
    at = page.text.index("Each class, the worst first")
    assert re.match(rf"\s*class\s*images\s*accuracy\s*F1\s+kind {worst}\D", page.text[at + 27 :])
    most = max(range(20), key=lambda k: last["val_confusion"][k][(k + 1) % 20])
    count = last["val_confusion"][most][(most + 1) % 20]
    assert re.search(
        rf"of the class\s+kind \d+\s*kind \d+\s*{count}\D", page.text[page.text.index("Most often confused") :]
    )
    assert all(str(row[k]) in page.text for k, row in enumerate(last["val_confusion"]))


def test_a_gan_over_time(report, tmp_path):
    """Of many epochs some are shown, the first and the last among them."""
    start = {"task": "Gan", "classes": ["image"]}
    run = write_run(tmp_path / "gan", epochs=40, start=start, model="MNISTGAN")
    (run / "samples").mkdir()
    rng = np.random.default_rng(0)
    for epoch in range(1, 41):
        noise = rng.integers(0, 255, (260, 260, 3), dtype=np.uint8)
        Image.fromarray(noise).save(run / "samples" / f"generated_{epoch:03d}.png")
    (run / "samples" / "generated_020.png").write_bytes(b"\x89PNG\r\n\x1a\ncut off")
    page, _ = report(run)
    strip = next(given for given in page.given("div") if "data-slider" in given)
    alts = [given["alt"] for given in page.given("img")]
    assert strip["class"] == "strip" and len(alts) in (7, 8)
    assert alts[0] == "generated images, epoch 1" and alts[-1] == "generated images, epoch 40"


# ---- safety


def test_text_stays_text(report, tmp_path):
    """Also in the charts' data, in attributes, in the title."""
    name = "<script>alert(2)<"  # a file's name holds no slash
    options = {"train_data_root": f"/tmp/{EVIL[1]}", "model_args": {"width": EVIL[0]}}
    run = write_run(
        tmp_path / name, classes=EVIL, start={"cpu": EVIL[1], "command": EVIL[0], "machine": EVIL[2]}, **options
    )
    samples = run / "samples"
    samples.mkdir()
    Image.new("RGB", (40, 40)).save(samples / "augmented.png")
    other = write_run(tmp_path / EVIL[1].replace("/", ""), classes=EVIL, lr=0.5)
    for runs in ([run], [run, other]):
        page, _ = report(*runs)
        assert len(page.given("script")) == 1 and len(page.given("title")) == 1 and len(page.given("style")) == 1
        assert not any(key.startswith("on") for _, given in page.tags for key in given)
        assert all(given["src"].startswith("data:") for given in page.given("img"))
        assert EVIL[0] in page.text and EVIL[1] in page.text and "\\u202e&amp;" in page.text and "\\ud800" in page.text
        assert page.text.count("alert(2)") >= 2
    assert {"validation", "training"} < report(run)[0].lines("epoch").keys()
    assert run.name in page.lines("step")


def test_home_folders_are_not_shared(report, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    run = write_run(tmp_path / "run", train_data_root=f"{tmp_path}/ada/photos", test_data_root=f"{tmp_path}/adam/x")
    page, _ = report(run)
    assert "~/photos" in page.text and "ada/" not in page.text and "adam/x" in page.text


def test_many_classes_and_steps_stay_small(report, tmp_path):
    run = write_run(tmp_path / "run", steps=100_000, classes=[f"class {k}" for k in range(1000)])
    page, out = report(run)
    assert int(re.search(r"(\d+) KB", out)[1]) < 500
    xs, ys = page.lines("step")["each step"]
    losses = [event["loss"] for event in events_of(run, "step")]
    assert len(xs) <= 602 and [min(ys), max(ys)] == pytest.approx([min(losses), max(losses)], 1e-5)
    assert xs[0] == 1 and xs[-1] == 100_000


# ---- records as they are found


def cut(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])


def without_epochs(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(line for line in lines if '"kind": "epoch"' not in line))


def odd_values(run: Path) -> None:
    odd = [None, "x", [], {}, float("nan"), float("inf"), -1e308, True, 10**20]
    lines = []
    for number, event in enumerate(map(json.loads, (run / "metrics.jsonl").open())):
        for place, name in enumerate(sorted(event.keys() - {"kind", "config", "epoch" if number else "x"})):
            event[name] = odd[(number + place) % len(odd)]
        lines.append(json.dumps(event))
    (run / "metrics.jsonl").write_text("\n".join(lines))


def only_a_start(run: Path) -> None:
    config = {"config": {"model": 3, "dataset": [], "lr": "x", "max_epoch": None, "monitor": 0.5}}
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "start", **config}))


def not_numbers(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(re.sub(r'("(val|train)_\w+"): [\d.e-]+', r"\1: null", text))


def other_sizes(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('["cat", "dog"]', '["cat", "dog", "cow"]'))


@pytest.mark.parametrize("damage", [cut, without_epochs, odd_values, only_a_start, not_numbers, other_sizes])
def test_a_damaged_record_gives_what_it_has(damage, report, tmp_path):
    run, whole = write_run(tmp_path / "damaged"), write_run(tmp_path / "whole", lr=0.1)
    (run / "samples").mkdir()
    (run / "samples" / "augmented.png").write_bytes(b"no picture")
    damage(run)
    assert "damaged" in report(run)[0].text
    page, _ = report(run, whole)
    assert "damaged" in page.text and "whole" in page.lines("epoch")
    assert not re.search(r"NaN|Infinity", json.dumps(page.charts))


def test_a_run_that_trains_now(report, tmp_path):
    run = write_run(tmp_path / "run")
    with locked(run / "log.txt"):
        assert "running" in report(run)[0].text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name one or more runs"),
        (["nonesuch"], "nonesuch is no run"),
        (["runn"], "Did you mean run?"),
        (["run", "--report-file=none/x.html"], "no folder none"),
        (["run", "--report-file=."], "is a folder"),
        (["run", "--lr=1"], "--lr has no effect on report"),
        (["run", "--galery"], "Did you mean gallery?"),
    ],
)
def test_wrong_words(words, said, command, tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "run")
    monkeypatch.chdir(tmp_path)
    code, out, err = command("report", *words, "--checkpoint-dir=runs")
    assert code == 2 and said in err and err.count("\n") == 1 and not out
    assert not list(tmp_path.rglob("*.html"))


def test_names_of_runs_and_the_place_of_the_page(command, tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two", lr=0.5)
    monkeypatch.chdir(tmp_path)
    assert (
        command("report", "one", "--no-gallery", "--checkpoint-dir=runs")[1]
        .splitlines()[-1]
        .startswith("runs/one/report.html: ")
    )
    assert command("report", "one", "two", "--no-gallery", "--checkpoint-dir=runs")[0] == 0
    assert Page((tmp_path / "report.html").read_text()).text.count("2 runs compared") == 2


def test_ctrl_c_leaves_the_page_that_was_there(command, tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    (run / "report.html").write_text("before")
    monkeypatch.setattr(pictures, "build", lambda subject: signal.raise_signal(signal.SIGINT))
    assert command("report", run, "--no-gallery")[0] == 130
    assert (run / "report.html").read_text() == "before"
    assert {path.name for path in run.iterdir()} == {"metrics.jsonl", "log.txt", "report.html"}


# ---- pieces


def test_a_scale_has_round_ticks_within_its_ends():
    for low, high in ((0, 1), (0.31, 0.87), (-3, 1200), (1, 2), (5, 5), (0, 0), (1e-8, 3e-8), (99_000, 101_000)):
        scale = Scale.of([[low, high]])
        assert (
            len(scale.ticks) >= 1 + (low < high)
            and scale.low <= scale.ticks[0] <= scale.ticks[-1] <= scale.high * (1 + 1e-9) + 1e-12
        )
        assert len({scale.text(tick) for tick in scale.ticks}) == len(scale.ticks), (low, high)
    assert Scale.of([[1, 3]]).ticks == [1, 2, 3]
    assert Scale.of([[0.001, 10]], log=True).ticks == [0.001, 0.01, 0.1, 1, 10]


def test_thinning_keeps_the_extremes():
    y = np.sin(np.arange(50_000.0))
    y[31_234], y[777] = 9, -9
    xs, ys = thinned([np.arange(50_000.0), y])
    assert len(xs) <= 602 and (np.diff(xs) > 0).all() and ys.max() == 9 and ys.min() == -9
    assert ys[list(xs).index(31_234)] == 9


def test_heat_maps_of_all_sizes():
    small = charts.heat([[1, 0], [0.5, 2]], EVIL[:2], EVIL[:2])
    assert "<script" not in small and small.count("<td") == 4 and "--v:1.00" in small
    assert charts.heat(np.eye(30), ["a"] * 30, ["a"] * 30).count("<td") == 900
    assert charts.heat(np.eye(1000), ["a"] * 1000, ["a"] * 1000).count("<img") == 1


def test_dots_hold_their_titles():
    page = Page(charts.scatter({EVIL[0]: [(0, 1, EVIL[1]), (2, 3, "b")], "x": []}, "across", "up"))
    (chart,) = page.charts
    assert chart["lines"][0]["t"] == [EVIL[1], "b"] and chart["lines"][0]["v"] == [[0, 2], [1, 3]]
    assert not page.given("script") and charts.scatter({}, "a", "b") == "" == charts.lines([], "a", "b")


def test_an_image_is_kept_as_it_is_or_nearly():
    flat = np.full((40, 60, 3), 200, np.uint8)
    assert 'width="120" height="80"' in pieces.image(flat, EVIL[1], width=120)
    assert 'alt="&quot;&gt;&lt;img' in pieces.image(flat, EVIL[1])


def test_long_tables_say_what_they_leave_out():
    page = Page(pieces.table(["a", "b"], [[k, "x"] for k in range(300)]))
    assert len(page.given("tr")) == 201 and "100 more rows are left out" in page.text


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours #rrggbb, 1 to 21 (WCAG 2.2)."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_both_modes():
    style = (ROOT / "report" / "page.css").read_text()
    modes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(modes) == 2
    for colours in modes:
        for name in ("ink", "soft", "accent", "good", "bad"):
            assert min(contrast(colours[name], colours["bg"]), contrast(colours[name], colours["card"])) >= 4.5, name
        assert all(contrast(colours[f"c{k}"], colours["bg"]) >= 3 for k in range(charts.COLOURS))


# ---- how a run came about


def test_the_record_says_how_it_was_started(trained):
    (start,) = events_of(trained, "start")
    assert start["command"] == "in Python" and start["python"] == sys.version.split()[0]
    assert (
        start["cores"] >= 1 and start["memory"] > 2**28 and start["platform"].startswith(("Linux", "Darwin", "Windows"))
    )
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        provenance.gather()
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.1  # idle: 0.01


def test_the_command_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(ROOT / "main.py"), raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr(
        sys, "argv", ["/x/main.py", "train", "--model-args=width=2 depth=3", "--train-data-root=/home/ada/a b"]
    )
    assert provenance.command() == "python main.py train '--model-args=width=2 depth=3' '--train-data-root=~/a b'"


def test_the_commit_of_the_program_alone(tmp_path, monkeypatch):
    """A repository around it that does not track it is none of it."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    folder = tmp_path / "outer" / "program"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("1")
    assert provenance.program(folder) is None

    def git(*words: str) -> str:
        names = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *names, *words], cwd=folder.parent, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    (folder.parent / "other.txt").write_text("1")
    git("add", "other.txt")
    git("commit", "-qm", "x")
    assert provenance.program(folder) is None
    git("add", ".")
    git("commit", "-qm", "y")
    commit = git("rev-parse", "HEAD").strip()
    (folder / "notes.txt").write_text("1")
    (folder.parent / "other.txt").write_text("2")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert provenance.program(folder) == {"commit": commit, "clean": True}
    (folder / "main.py").write_text("2")
    assert provenance.program(folder) == {"commit": commit, "clean": False}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.program(folder) is None


# ---- in a browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --proxy-server=127.0.0.1:9 --virtual-time-budget=8000 --dump-dom"""
FIRST = """<script>window.troubles = []; window.onerror = (...what) => troubles.push(String(what[0]));
    document.addEventListener("securitypolicyviolation", e => troubles.push(e.violatedDirective));</script>"""
LOOK = """
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, found = { troubles: frame.contentWindow.troubles };
  found.ready = root.dataset.ready; found.width = root.clientWidth; found.needed = root.scrollWidth;
  found.height = root.scrollHeight; found.text = page.body.innerText;
  const inside = element => element.closest(".scroll, .strip, pre, .plot");
  found.outside = [...page.body.querySelectorAll("*")].filter(e => !inside(e.parentElement) &&
    e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.outerHTML.slice(0, 99));
  found.charts = [...page.querySelectorAll(".plot svg")].filter(s => s.getBoundingClientRect().height > 100).length;
  const plot = page.querySelector(".plot"), box = plot.getBoundingClientRect(), view = frame.contentWindow;
  plot.dispatchEvent(new view.PointerEvent("pointermove", { clientX: box.right - 1, clientY: box.top + 9 }));
  found.last = plot.querySelector(".tip").innerText;
  plot.dispatchEvent(new view.KeyboardEvent("keydown", { key: "Home" }));
  found.first = plot.querySelector(".tip").innerText;
  found.pictures = [...page.querySelectorAll(".strip figure")].filter(f => f.offsetHeight > 0).length;
  return found;
}
addEventListener("load", () => setTimeout(() => {
  const out = document.createElement("pre");
  out.id = "found"; out.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
  document.body.append(out);
}, 500));
"""


def looked_at(pages: list[tuple[str, int]], folder: Path) -> list[dict]:
    """What a browser without a net makes of the pages, (HTML, width of the window) each."""
    frames = []
    for text, width in pages:
        text = text.replace("<head>", f"<head>{FIRST}", 1)
        frames.append(f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(text)}"></iframe>')
    (folder / "frames.html").write_text(f"<!doctype html><script>{LOOK}</script>{''.join(frames)}", encoding="utf-8")
    words = [BROWSER, *FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*words, (folder / "frames.html").as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome is installed")
def test_in_a_browser_without_a_net(trained, command, tmp_path):
    names = ["a_class_of_a_rather_long_name" + str(k) for k in range(14)]
    gan = write_run(tmp_path / "gan", start={"task": "Gan", "classes": ["image"]}, model="MNISTGAN")
    (gan / "samples").mkdir()
    for epoch in range(1, 6):
        Image.new("RGB", (260, 260)).save(gan / "samples" / f"generated_{epoch:03d}.png")
    seeds = [write_run(tmp_path / f"a_run_of_a_rather_long_name_{seed}", classes=names, seed=seed) for seed in range(2)]
    evil = write_run(tmp_path / "evil", classes=EVIL[:3], start={"command": EVIL[0]})
    pages = []
    for words in ([trained], [*seeds, evil], [gan], [evil]):
        path = tmp_path / "page.html"
        assert command("report", *words, "--no-gallery", f"--report-file={path}")[0] == 0
        pages += [(path.read_text(encoding="utf-8"), width) for width in (360, 1200)]
    found = looked_at(pages, tmp_path)
    for (_, width), page in zip(pages, found, strict=True):
        assert page["troubles"] == [] and page["ready"] == "yes"
        assert page["outside"] == [] and page["needed"] <= page["width"] <= width
        assert page["charts"] >= 4 and page["height"] > 1000
    epochs = events_of(trained, "epoch")
    assert "epoch 3" in found[0]["last"] and f"validation: {epochs[-1]['val_loss']:.4f}"[:16] in found[0]["last"]
    assert found[0]["first"].startswith("epoch 1")
    assert f"{max(epoch['val_accuracy'] for epoch in epochs):.2%}" in found[1]["text"]
    assert found[4]["pictures"] == found[5]["pictures"] == 1
    assert EVIL[0] in found[6]["text"]
