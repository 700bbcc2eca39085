"""`runs`: how runs stand, what they reached, where they differ."""

import csv
import io
import json
import shutil
import statistics
from pathlib import Path

import pytest
from conftest import locked, train_in

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
    assert rows[0].keys() - {"lr"} == columns


def test_the_table_as_text_and_csv(folder, command):
    code, out, _ = command("runs", f"--checkpoint-dir={folder}")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 3 and lines[0].split()[:2] == ["run", "status"] and lines[0].endswith("lr")
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
