"""`runs A B`: whether two experiments differ by more than noise, and their curves."""

import csv
import io
import json
import random
import shutil
import subprocess
import sys
import time

import pytest
import scipy.stats
from conftest import ROOT
from made_runs import make_run, make_seeds
from PIL import Image
from visdom_server import free_port, visdom_server

from runs import noise, table


def rows_of(folder, *names):
    """The groups whose runs' names begin so."""
    rows = table.grouped(table.read_all(folder))
    return [next(row for row in rows if row.name.startswith(name)) for name in names]


def test_seeds_that_match_are_paired(tmp_path):
    first, second = [0.70, 0.74, 0.71, 0.60], [0.72, 0.75, 0.74]
    make_seeds(tmp_path, "a", first)
    make_seeds(tmp_path, "b", second, lr=0.1)
    a, b = rows_of(tmp_path, "a", "b")
    found = noise.difference(b, a)
    assert found.value == pytest.approx(0.02) and found.test == "paired by 3 seeds (Student's t)"
    assert found.p == pytest.approx(scipy.stats.ttest_rel(second, first[:3]).pvalue)
    assert found.p == pytest.approx(0.0742, abs=1e-4) and found.verdict == "no more than noise"


def test_other_seeds_are_compared_by_welch(tmp_path):
    first, second = [0.70, 0.74, 0.71], [0.82, 0.85, 0.84, 0.80]
    make_seeds(tmp_path, "a", first)
    make_seeds(tmp_path, "b", second, first=2, lr=0.1)
    a, b = rows_of(tmp_path, "a", "b")
    found = noise.difference(b, a)
    assert found.test == "4 and 3 seeds (Welch's t)" and found.verdict == "more than noise"
    assert found.p == pytest.approx(scipy.stats.ttest_ind(second, first, equal_var=False).pvalue)
    assert (noise.difference(a, b).p, noise.difference(a, b).value) == pytest.approx((found.p, -found.value))


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0], True),  # none has a spread, and they are far apart
        ([0.5, 0.6], [0.5 + 1 / 180, 0.6 + 1 / 180], False),  # one image more, twice
        ([0.9, 0.9], [0.9, 0.9], False),
    ],
)
def test_equal_differences_have_the_noise_of_rounding(first, second, told, tmp_path):
    make_seeds(tmp_path, "a", first)
    make_seeds(tmp_path, "b", second, lr=0.1)
    make_seeds(tmp_path, "c", second, first=7, lr=0.2)
    a, b, c = rows_of(tmp_path, "a", "b", "c")
    assert [noise.difference(other, a).verdict == "more than noise" for other in (b, c)] == [told, told]


def test_noise_alone_is_seldom_called_different_and_a_large_difference_is(tmp_path):
    rng, wrong, right = random.Random(0), 0, 0
    make_seeds(tmp_path, "a", [0.5] * 4)
    make_seeds(tmp_path, "b", [0.5] * 4, lr=0.1)
    a, b = rows_of(tmp_path, "a", "b")

    def told(shift):
        for row, more in ((a, 0), (b, shift)):
            for run in row.seeds:
                run.metrics["val_accuracy"] = rng.gauss(0.7 + more, 0.02)
        return noise.difference(b, a).verdict == "more than noise"

    for _ in range(400):
        wrong += told(0)
        right += told(0.2)
    assert 8 <= wrong <= 32 and right >= 396  # 5% of 400 are 20, with a deviation of 4.4


def test_one_seed_cannot_tell(tmp_path, command):
    make_run(tmp_path, "a", [0.1])
    make_run(tmp_path, "b", [0.9], lr=0.1)
    make_seeds(tmp_path, "c", [0.1, 0.2, 0.3], lr=0.5)
    out = command("runs", "a", "b", "c_0", "c_1", f"--checkpoint-dir={tmp_path}", "--curves-file=None")[1]
    assert "B - A: accuracy +0.8: one seed each cannot tell\n" in out
    assert "C - A: accuracy +0.05: one seed cannot tell\n" in out
    assert f"another seed: python main.py train --config={tmp_path}/a/config.yaml --seed=1\n" in out
    rows = table.grouped(table.read_all(tmp_path))
    assert [one.mark for one in noise.against_best(rows).values()] == ["1 seed", "1 seed"]
    assert noise.against_best([row for row in rows if not row.seeds]) == {}


def test_the_table_tells_what_is_no_worse_than_the_best(tmp_path, command):
    make_seeds(tmp_path, "best", [0.90, 0.92, 0.94])
    make_seeds(tmp_path, "alike", [0.91, 0.90, 0.93], lr=0.1)
    make_seeds(tmp_path, "worse", [0.50, 0.53, 0.54], lr=0.2)
    make_seeds(tmp_path, "gan", [3, 4, 5], monitor="distance", model="AnimeGAN")
    make_seeds(tmp_path, "gan2", [30, 40, 50], monitor="distance", model="AnimeGAN", lr=0.3)
    code, out, _ = command("runs", f"--checkpoint-dir={tmp_path}")
    marks = {line.split("_")[0]: line for line in out.splitlines()}
    assert code == 0 and "≈ best" in marks["alike"] and "worse" in marks["worse"] and "Student's t" in out
    assert (
        all(" best " in marks[name] and "≈" not in marks[name] for name in ("best", "gan")) and "worse" in marks["gan2"]
    )
    rows = json.loads(command("runs", f"--checkpoint-dir={tmp_path}", "--json")[1])
    found = {row["name"].split("_")[0]: (row["against"], row["verdict"]) for row in rows}
    assert found["best"] == (None, None) and found["worse"] == ("best_2 and 2 more seeds", "more than noise")


@pytest.fixture
def folder(tmp_path):
    make_seeds(tmp_path, "a", [0.70, 0.72, 0.71])
    make_seeds(tmp_path, "b", [0.80, 0.83, 0.81], lr=0.1)
    return tmp_path


NAMES = [f"{name}_{seed}" for name in "ab" for seed in range(3)]


def test_comparing_shows_options_metrics_and_the_verdict(folder, command):
    flags = [f"--checkpoint-dir={folder}", f"--curves-file={folder}/c.png", "--vis-port=None"]
    code, out, err = command("runs", *NAMES, *flags)
    assert code == 0 and err == "" and out.endswith(f"curves: {folder}/c.png\n")
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert lines["lr"] == ["0.001", "0.1"] and lines["val_accuracy"][0] == "0.71" and lines["train_loss"][0] == "0.5"
    assert lines["run"] == ["a_0", "b_0"] and lines["time"] == ["0:00:15", "0:00:15"]
    assert "B - A: accuracy +0.1033, paired by 3 seeds (Student's t), p 0.001: more than noise" in out
    image = Image.open(folder / "c.png")
    assert image.format == "PNG" and image.width > 800
    colours = {colour for _, colour in image.convert("RGB").getcolors(2**20)}
    assert {(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)} <= colours  # the lines of A and B
    assert not list(folder.glob(".*"))


def test_the_records_of_a_comparison(folder, command):
    flags = [f"--checkpoint-dir={folder}", "--curves-file=None"]
    rows = json.loads(command("runs", *NAMES, *flags, "--json")[1])
    assert [row["lr"] for row in rows] == [0.001, 0.1] and rows[1]["against"] == rows[0]["name"]
    assert rows[1]["difference"] == pytest.approx(0.31 / 3) and rows[1]["val_loss"] == 0.75
    table = list(csv.DictReader(io.StringIO(command("runs", *NAMES, *flags, "--csv", "--sort=-best")[1])))
    assert [row["lr"] for row in table] == ["0.1", "0.001"] and table[1]["verdict"] == "more than noise"
    (row,) = json.loads(command("runs", *NAMES, *flags, "--json", "--where=lr>0.01")[1])
    assert row["best"] == pytest.approx(2.44 / 3) and row["against"] is None


def test_runs_in_any_state_are_compared(tmp_path, command):
    make_run(tmp_path, "猫_$x$_\U0001f408", [0.5, 0.6])
    make_run(tmp_path, "gan", [9, 4, 5], monitor="distance", model="AnimeGAN")
    make_run(tmp_path, "died", [0.5], max_epoch=9)
    none = make_run(tmp_path, "none", [], max_epoch=9)
    cut = make_run(tmp_path, "cut", [0.5, 0.6], steps=3)
    data = (cut / "metrics.jsonl").read_bytes()
    (cut / "metrics.jsonl").write_bytes(data[:-40])
    (cut / "log.txt").unlink()
    shutil.copytree(tmp_path / "gan", tmp_path / "gan2")
    names = [path.name for path in tmp_path.iterdir()]
    flags = [f"--checkpoint-dir={tmp_path}", f"--curves-file={tmp_path}/c.png"]
    code, out, err = command("runs", "gan", *(name for name in names if name != "gan"), *flags)
    assert code == 0 and err == "" and "they are one run, copied" in out and "accuracy and distance" in out
    assert (tmp_path / "c.png").stat().st_size > 10_000
    code, out, err = command("runs", "none", *flags)
    assert (code, err) == (0, "") and "no curves" in out and none.is_dir()
    code, out, err = command("runs", "last", "died", *flags, "--where=lr>1")
    assert (code, out, err) == (0, "no runs\n", "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["a_0", "b_9"], "b_9 is no run"),
        (["a_0", "--curves-file=/none/c.png"], "no folder /none for --curves-file"),
        (["--curves-file=c.png"], "--curves-file has no effect on the table"),
        (["a_0", "--csv", "--json"], "two formats"),
        (["a_0", "--where=lr"], "no condition"),
    ],
)
def test_what_cannot_be_compared(flags, said, folder, command):
    code, out, err = command("runs", *flags, f"--checkpoint-dir={folder}")
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err


def test_the_curves_are_drawn_into_visdom_where_a_server_is(folder, command):
    flags = [f"--checkpoint-dir={folder}", "--curves-file=None"]
    start = time.process_time()
    out = command("runs", *NAMES, *flags, f"--vis-port={free_port()}")[1]
    assert "visdom" not in out and time.process_time() - start < 1
    with visdom_server() as server:
        code, out, err = command("runs", *NAMES, *flags, f"--vis-port={server.port}", "--env=both")
        assert (code, err) == (0, "") and "visdom: drawn into the page both" in out
        assert {"runs loss", "runs val_accuracy"} <= set(server.windows("both"))
        x, y = server.points("both", "runs val_accuracy")
        assert x == [1, 2] and y == pytest.approx([0.355, 0.71])


def test_the_curves_are_drawn_at_the_address_of_the_server(folder, command, monkeypatch):
    flags = [f"--checkpoint-dir={folder}", "--curves-file=None", "--vis-server=http://localhost/base"]
    monkeypatch.setenv("VISDOM_USERNAME", "ann")
    monkeypatch.setenv("VISDOM_PASSWORD", "s3cret")
    with visdom_server("/base", ("ann", "s3cret")) as server:
        code, out, err = command("runs", *NAMES, *flags, f"--vis-port={server.port}")
        assert (code, err) == (0, "") and "visdom: drawn into the page runs" in out
        assert {"runs loss", "runs val_accuracy"} <= set(server.windows("runs"))


def test_no_torch_is_needed(folder):
    script = (
        f"import sys, main; main.runs(*{NAMES}, checkpoint_dir={str(folder)!r}, curves_file={str(folder / 'c.png')!r})"
    )
    script += "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
