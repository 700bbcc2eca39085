"""`runs`: how runs stand, what they reached, where they differ."""

import csv
import io
import json
import random
import shutil
import statistics
import time
from pathlib import Path

import pytest
from conftest import locked, train_in
from made_runs import make_run, make_seeds
from tqdm.utils import disp_len

from runs import layout, noise, table
from utils.text import shortened

FLAGS = ["--model=small_net:SmallNet", "--image-size=16"]


@pytest.fixture(scope="module")
def folder(dogcat, tmp_path_factory) -> Path:
    """Three seeds of one experiment, and one of another."""
    folder = tmp_path_factory.mktemp("table")
    data = f"--train-data-root={dogcat}/train"
    for seed in range(3):
        train_in(folder, *FLAGS, data, f"--seed={seed}", "--max-epoch=2")
    train_in(folder, *FLAGS, data, "--lr=0.1")
    return folder


def events(run: Path) -> list[dict]:
    return [e for e in map(json.loads, (run / "metrics.jsonl").open()) if e["kind"] == "epoch"]


def listed(command, folder: Path, *flags: str) -> list[dict]:
    code, out, err = command("runs", f"--checkpoint-dir={folder}", "--json", *flags)
    assert code == 0, err
    return json.loads(out)


def test_runs_that_differ_in_the_seed_alone_are_one_row(folder, command):
    rows = listed(command, folder)
    assert [row["runs"] for row in rows] == [1, 3]
    best = []
    for run in folder.iterdir():
        if len(events(run)) == 2:
            best.append(max((e["val_accuracy"], -e["val_loss"]) for e in events(run))[0])
    assert rows[1]["best"] == pytest.approx(statistics.fmean(best))
    assert rows[1]["deviation"] == pytest.approx(statistics.stdev(best))
    assert rows[0]["lr"] == 0.1 and rows[1]["lr"] == 0.001 and rows[0]["max_epoch"] == 1
    columns = {"name", "status", "epoch", "max_epoch", "monitor", "best", "deviation", "runs", "last", "seconds"}
    assert rows[0].keys() - {"lr"} == columns | {"against", "difference", "test", "p", "verdict"}


def test_the_table_as_text_and_csv(folder, command):
    code, out, _ = command("runs", f"--checkpoint-dir={folder}")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 4 and lines[0].split()[:2] == ["run", "status"] and lines[0].endswith("lr")
    assert lines[3] == "vs best: 1 seed: cannot tell"
    assert "and 2 more seeds" in lines[2] and "(n 3)" in lines[2] and lines[1].endswith("0.1")
    out = command("runs", f"--checkpoint-dir={folder}", "--csv")[1]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["lr"] for row in rows] == ["0.1", "0.001"]
    assert command("runs", f"--checkpoint-dir={folder / 'none'}")[1] == "no runs\n"


@pytest.mark.parametrize(
    ("where", "lrs"),
    [
        ("lr<0.01", [0.001]),
        ("lr>=0.1", [0.1]),
        ("lr!=0.1", [0.001]),
        ("status=finished", [0.1, 0.001]),
        ("model=small_net:SmallNet epoch=1", [0.1]),
        ("val_loss<1e9", [0.1, 0.001]),
        ("status=died", []),
        ("batch-size=8", [0.1, 0.001]),
    ],
)
def test_where(where, lrs, folder, command):
    rows = listed(command, folder, f"--where={where}")
    assert len(rows) == len(lrs)
    if len(rows) == 2:
        assert [row["lr"] for row in rows] == lrs


@pytest.mark.parametrize(
    ("flags", "said"), [(["--where=lr"], "no condition"), (["--sort=losss"], "no run has 'losss'")]
)
def test_what_is_no_condition_or_column(flags, said, folder, command):
    code, _, err = command("runs", f"--checkpoint-dir={folder}", *flags)
    assert code == 2 and said in err and err.count("\n") == 1


def test_sort(folder, command):
    up = [row["best"] for row in listed(command, folder, "--sort=best")]
    down = [row["best"] for row in listed(command, folder, "--sort=-best")]
    assert up == sorted(up) and down == sorted(up, reverse=True)


def copied(folder: Path, place: Path) -> Path:
    run = next(path for path in folder.iterdir() if len(events(path)) == 2)
    return Path(shutil.copytree(run, place / run.name))


def test_how_runs_stand(folder, command, tmp_path):
    run = copied(folder, tmp_path)
    (row,) = listed(command, tmp_path)
    assert row["status"] == "finished"
    record = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(record[:-1]) + "\n")
    for words, status in (("", "died"), ("stopped by Ctrl-C at step 3", "stopped"), ("ended at step 4", "failed")):
        (run / "log.txt").write_text(f"x\n{words}\n")
        assert listed(command, tmp_path)[0]["status"] == status
    (run / "log.txt").write_text("stopped by Ctrl-C at step 3\nresuming from x: step 3\n")
    assert listed(command, tmp_path)[0]["status"] == "died"
    with locked(run / "log.txt"):
        assert listed(command, tmp_path)[0]["status"] == "running"


DAMAGE = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "other JSON": lambda path: path.write_text(
        '1\n[]\n{"kind": 3}\n{"kind": "epoch", "epoch": "x"}\n' + path.read_text()
    ),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\n" + path.read_bytes()),
    "no config": lambda path: path.write_text('{"kind": "start", "config": 1}\n'),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_records_harm_no_other_run(damage, folder, command, tmp_path):
    run = copied(folder, tmp_path)
    shutil.copytree(run, tmp_path / "whole")
    DAMAGE[damage](run / "metrics.jsonl")
    rows = listed(command, tmp_path, "--where=name=whole")
    assert [row["name"] for row in rows] == ["whole"] and rows[0]["epoch"] == 2


def test_cut_and_spoilt_records_are_read_as_far_as_they_are(tmp_path, command):
    make_run(tmp_path, "whole", [0.5, 0.6])
    run = make_run(tmp_path, "hurt", [0.5, 0.6, 0.7], steps=2, seed=1)
    data, rng = (run / "metrics.jsonl").read_bytes(), random.Random(0)
    for case in range(150):
        some = bytearray(data[: rng.randrange(len(data))] if case % 2 else data)
        for _ in range(case % 5):
            at = rng.randrange(len(some) + 1)
            some[at : at + rng.randrange(20)] = rng.randbytes(rng.randrange(20))
        (run / "metrics.jsonl").write_bytes(some)
        rows = table.grouped(table.read_all(tmp_path))
        assert "whole" in [row.name for row in rows] and len(rows) <= 2
        against = noise.against_best(rows)
        assert layout.to_text(rows, against, 80) and layout.to_csv(layout.records(rows, against))
        if case % 2 and not case % 5:  # only cut: the whole lines count
            epochs = bytes(some).count(b'"seconds": 2.5}\n') + bytes(some).endswith(b'"seconds": 2.5}')
            assert [row.epoch for row in rows if row.name == "hurt"] == (
                [epochs] if len(some) >= data.index(b"\n") else []
            )


def test_a_folder_that_vanishes_harms_no_other(tmp_path, monkeypatch):
    for name in ("a", "b"):
        make_run(tmp_path, name, [0.5])
    listdir = table.history.os.listdir
    monkeypatch.setattr(table.history.os, "listdir", lambda folder: [*listdir(folder), "gone", "log.txt"])
    assert sorted(row.name for row in table.read_all(tmp_path)) == ["a", "b"]


LONG = "一个很长的中文名字_" * 4


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width, tmp_path):
    make_seeds(tmp_path, "resnet18_Demo_1126_0123", [0.71, 0.72, 0.74], lr=0.002, model_args={"width": 10**30})
    make_seeds(tmp_path, LONG, [0.81, 0.85], optimizer="SGD", momentum=0.9, weight_decay=0.01)
    make_run(tmp_path, LONG + "x", [0.5], lr=0.1, scheduler="cosine", mixup=0.5, label_smoothing=0.1, num_workers=3)
    rows = table.grouped(table.read_all(tmp_path))
    against = noise.against_best(rows)
    whole, fitted = (layout.to_text(rows, against, w).splitlines() for w in (None, width))
    assert all(disp_len(line) <= width for line in fitted)
    assert "left out" not in whole[-1] and LONG in whole[1] and len(whole) == 5
    names = [line[:12] for line in fitted[1:4]]
    assert fitted[0].startswith("run") and len(set(names)) == 3
    if width >= 80:
        assert all(word in fitted[0] for word in ("status", "best accuracy", "vs best"))
    said = " ".join(fitted[4:])
    told = fitted[0].split() + said.partition("left out: ")[2].partition(": see")[0].split(", ")
    for name in (*table.differing(rows), "time"):
        assert name in told or name == "max_epoch"


def test_a_middle_is_left_out_by_the_columns_that_a_terminal_needs():
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("猫和狗的实验", 7) == "猫和…验" and disp_len(shortened(LONG, 20)) <= 20


def test_what_leaves_the_result_as_it_is_splits_no_group_but_is_seen(tmp_path):
    make_run(tmp_path, "a", [0.5], seed=0, num_workers=0, print_freq=5, threads=1)
    make_run(tmp_path, "b", [0.6], seed=1, num_workers=4, vis_port=None)
    make_run(tmp_path, "c", [0.7], seed=2, amp="off", num_workers=4)
    rows = table.grouped(table.read_all(tmp_path))
    assert [len(row.runs) for row in rows] == [1, 2]
    assert table.differing(rows)[0] == "amp" and "num_workers" in table.differing(rows)
    assert sorted(rows[1].option("num_workers").split(", ")) == ["0", "4"]


def test_a_run_that_was_copied_is_no_second_seed(tmp_path):
    make_seeds(tmp_path, "a", [0.5, 0.7])
    shutil.copytree(tmp_path / "a_1", tmp_path / "from_the_cluster")
    (row,) = table.grouped(table.read_all(tmp_path))
    assert len(row.seeds) == 2 and row.best == pytest.approx(0.6)
    shutil.rmtree(tmp_path / "a_0")
    assert [row.seeds for row in table.grouped(table.read_all(tmp_path))] == [[], []]


def test_other_data_of_the_same_place_are_another_experiment(tmp_path):
    make_seeds(tmp_path, "a", [0.5, 0.7])
    path = tmp_path / "a_1" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"train": 420', '"train": 419'))
    assert len(table.grouped(table.read_all(tmp_path))) == 2


def test_a_thousand_runs_take_little(tmp_path):
    make_run(tmp_path, "run0", [0.5, 0.6, 0.7], steps=10)
    text = (tmp_path / "run0" / "metrics.jsonl").read_text()
    for i in range(1, 1000):
        (tmp_path / f"run{i}").mkdir()
        changed = text.replace('"seed": 0', f'"seed": {i % 3}').replace(
            '"lr": 0.001, "mom', f'"lr": {i // 3 + 1}, "mom'
        )
        (tmp_path / f"run{i}" / "metrics.jsonl").write_text(changed)
    start = time.process_time()
    rows = table.grouped(table.read_all(tmp_path))
    layout.to_text(rows, noise.against_best(rows), 80)
    assert len(rows) == 335 and time.process_time() - start < 5  # ten times what an idle machine takes


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\r\nb", 'a,"b"', " a "])
def test_a_cell_of_csv_comes_back_as_it_was(name):
    text = layout.to_csv([{"name": name, "best": 0.5}, {"name": "c", "best": None}])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["name", "best"], [name, "0.5"], ["c", ""]]
