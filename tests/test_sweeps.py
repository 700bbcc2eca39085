"""Sweeps: the space that is typed, the points that are chosen, workers that share a folder, trials that go on."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from compare import record, same, trained
from conftest import ROOT, TINY, locked, unless_given

from runs import history
from runs.record import Log
from sweeps import folder, space, study, worker
from sweeps.folder import Plan, Sweep, Trial
from utils import checkpoints
from utils.errors import UsageError

SPACE = {"lr": "1e-4..1e-1", "optimizer": "SGD,AdamW", "batch_size": "4..64"}


def parts(**values: str) -> space.Space:
    return space.split(values)[1]


# ---- the space


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr=1e-1..1e-4"], "--lr=1e-1..1e-4 is no range: it ends where it begins, or before"),
        (["--lr=1e-4..x"], "--lr=1e-4..x is no range: type the smallest and the largest number, as in 1e-4..1e-1"),
        (["--batch-size=1.5..8"], "the largest integer, as in 16..256"),
        (["--lr=0..1"], "--lr takes number > 0, not 0.0"),
        (["--ema=0,2"], "--ema takes number >= 0, < 1, not '2'"),
        (["--ema=0,,0.9"], "a value is missing beside a comma"),
        (["--ema=0,0"], "--ema=0,0 gives 0 twice"),
        (["--optimizer=SGD,AdamX"], "unknown optimizer 'AdamX'"),
        (["--lrr=0.1,0.2"], "unknown option --lrr. Did you mean lr?"),
        (["--trails=4", "--ema=0,0.9"], "unknown option --trails. Did you mean trials?"),
        (["--learning-rate=0.1,0.2"], "unknown option --learning-rate: here it is --lr"),
        (["--momentum=0.8,0.9"], "--momentum has no effect: Adam takes no momentum"),
        (["--model=AnimeGAN", "--mixup=0,0.2"], "--mixup has no effect on AnimeGAN"),
        (["--model=LeNet,AnimeGAN"], "their results cannot be compared, as their tasks are"),
        (["--seed=0,1"], "--seeds=N trains each trial with N seeds"),
        (["--lr=0.1"], "nothing is searched"),
        (["--sampler=grid", "--lr=0.1..1"], "--sampler=grid takes values, not a range: --lr=A,B,C"),
        (["--trials=0", "--ema=0,0.9"], "--trials takes int >= 1, not '0'"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_is_made(words, said, command, tmp_path):
    code, _, err = command("sweep", *words, "--name=one", f"--checkpoint-dir={tmp_path}")
    assert code == 2 and said in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_a_range_is_searched_by_the_logarithm_where_it_spans_a_decade_and_integers_stay_so():
    found = parts(lr="1e-4..1e-1", mixup="0..1", ema="0.9..0.99", batch_size="4..64", max_epoch="2..5")
    assert {name: (part.log, part.whole) for name, part in found.items()} == {
        "lr": (True, False),
        "mixup": (False, False),
        "ema": (False, False),
        "batch_size": (True, True),
        "max_epoch": (False, True),
    }


def test_what_has_no_effect_at_a_point_is_left_out_there():
    given, idle = space.options_at({"momentum": "0.9", "model": "LeNet"}, {"optimizer": "AdamW", "lr": "0.1"})
    assert given == {"model": "LeNet", "optimizer": "AdamW", "lr": "0.1"} and set(idle) == {"momentum"}


# ---- the points


def score(point: dict) -> float:
    return 1 - abs(math.log10(float(point["lr"])) + 2) / 3 + 0.05 * (point["optimizer"] == "AdamW")


def searched(count: int, sampler: str = "tpe", seed: int = 0, pruner: str = "none") -> list[Trial]:
    """Trials of an invented net whose accuracy depends on lr most and rises over ten epochs."""
    parts_, trials = parts(**SPACE), []
    for number in range(count):
        trial = Trial(number, Path("none"), study.suggest(parts_, trials, sampler, seed, False), {})
        for epoch in range(1, 11):
            trial.values[epoch] = score(trial.point) * epoch / 10
            if study.should_prune(parts_, trials, trial, pruner, 10, False):
                trial.ended = "pruned"
                break
        else:
            trial.ended, trial.value = "complete", score(trial.point)
        trials.append(trial)
    return trials


def test_the_same_seed_gives_the_same_points_and_another_one_others():
    points = [[trial.point for trial in searched(14, seed=seed)] for seed in (0, 0, 1)]
    assert points[0] == points[1] != points[2]
    assert len({str(point) for point in points[0]}) == 14


def test_tpe_is_better_than_chance():
    best = {
        kind: [max(score(t.point) for t in searched(40, kind, seed)) for seed in range(3)] for kind in ("tpe", "random")
    }
    assert sum(best["tpe"]) > sum(best["random"])


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_pruning_saves_epochs_and_keeps_what_is_good(pruner):
    trials = searched(30, pruner=pruner)
    assert sum(len(trial.values) for trial in trials) < 0.75 * 300
    worst = min((t for t in trials if t.ended == "complete"), key=lambda t: t.value)
    assert max(score(t.point) for t in trials if t.ended == "complete") > 1
    assert worst.number < 15 or worst.value > 0.8


def test_workers_that_ask_at_the_same_time_get_different_points():
    trials = searched(12)
    running = [*trials, Trial(12, Path("none"), study.suggest(parts(**SPACE), trials, "tpe", 0, False), {})]
    assert study.suggest(parts(**SPACE), running, "tpe", 0, False) != running[-1].point


@pytest.mark.parametrize("sampler", ["grid", "tpe", "random"])
def test_a_space_of_few_points_is_tried_once_and_no_more(sampler):
    small, trials = parts(ema="0,0.9", optimizer="SGD,AdamW,Adam"), []
    while point := study.suggest(small, trials, sampler, 0, False):
        trials.append(Trial(len(trials), Path("none"), point, {}, "complete", len(trials) / 10))
    assert len({str(sorted(trial.point.items())) for trial in trials}) == len(trials) == 6
    if sampler == "grid":
        assert [trial.point["ema"] for trial in trials] == ["0"] * 3 + ["0.9"] * 3


def test_importance_names_the_option_that_matters():
    assert next(iter(study.importance(parts(**SPACE), searched(30, "random"), False))) == "lr"


# ---- who works on what


def plan(trials: int = 2, **options) -> Plan:
    return Plan(
        {"model": "LeNet"},
        {"lr": "1e-4..1e-1"},
        **{"sampler": "tpe", "pruner": "none", "seeds": 1, "seed": 0, "trials": trials} | options,
    )


def test_a_trial_belongs_to_one_worker_until_that_is_dead(tmp_path):
    sweep = Sweep.begin(tmp_path / "one", plan())
    trial = sweep.claim_new(0, {"lr": "0.01"}, {"model": "LeNet", "lr": "0.01"})
    assert trial and sweep.claim_new(0, {}, {}) is None
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from sweeps.folder import Sweep
sweep = Sweep.open(Path({str(tmp_path / "one")!r}))
with sweep.working_on(sweep.trials()[0]) as claim:
    print(claim is not None, flush=True)
    time.sleep(100)
"""
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n"
    with sweep.working_on(trial) as claim:
        assert claim is None
    other.kill()
    other.wait()
    with sweep.working_on(trial) as claim:
        assert claim and not claim.lost
    assert sweep.trials()[0].point == {"lr": "0.01"}


def test_those_who_look_whether_a_run_is_trained_are_not_taken_for_its_training(tmp_path):
    """Looks of others once made a finished run "running", and a training refuse to begin."""
    start = {"kind": "start", "config": {"max_epoch": 1}}
    for name in ("finished", "begins"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.txt").touch()
        (tmp_path / name / "metrics.jsonl").write_text(f'{json.dumps(start)}\n{{"kind": "epoch", "epoch": 1}}\n')
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from runs import history
folder = Path({str(tmp_path)!r})
for _ in iter(lambda: (folder / "end").exists(), True):
    history.read(folder / "begins").status
    assert history.read(folder / "finished").status == "finished"
"""
    others = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    end = time.monotonic() + 3
    while time.monotonic() < end:
        Log(tmp_path / "begins" / "log.txt").close()
    (tmp_path / "end").touch()
    assert [other.wait() for other in others] == [0, 0, 0]


def test_a_trial_that_another_worker_has_ended_meanwhile_is_left_alone(run_sweep, tmp_path):
    """A pruned run that a second worker took for an open one would be trained on."""
    run_sweep("--trials=1", "--lr=1e-3..1e-2")
    sweep = Sweep.open(tmp_path / "one")
    (trial,), before = sweep.trials(), record(tmp_path / "one" / "trial_000")
    looked_at_before = replace(trial, ended=None)
    (tmp_path / "one" / "trial_000.json").write_text(json.dumps({"ended": "pruned", "values": {}}))
    one = worker.Worker(Sweep.open(tmp_path / "one"), {}, None, [], {}, quiet=True)
    assert one._take(looked_at_before) and record(tmp_path / "one" / "trial_000") == before
    assert json.loads((tmp_path / "one" / "trial_000.json").read_text()) == {"ended": "pruned", "values": {}}


def test_a_worker_of_another_machine_is_dead_when_it_gives_no_sign_of_life(tmp_path, monkeypatch):
    sweep = Sweep.begin(tmp_path / "one", plan())
    trial = sweep.claim_new(0, {"lr": "0.01"}, {"lr": "0.01"})
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")
    with sweep.working_on(trial) as claim:
        monkeypatch.setattr(socket, "gethostname", lambda: "node0")
        with sweep.working_on(trial) as other:
            assert claim and other is None
        os.utime(claim.path, (1, 1))
        with sweep.working_on(trial) as other:
            assert other and claim.lost


def test_a_sweep_of_another_plan_is_refused_and_a_damaged_one_named(tmp_path, command):
    Sweep.begin(tmp_path / "one", plan())
    with pytest.raises(UsageError, match=r"a sweep with seeds 1, not 3.*sweep --resume=one"):
        Sweep.begin(tmp_path / "one", plan(seeds=3))
    assert Sweep.begin(tmp_path / "one", plan(trials=5)).plan.trials == 5
    (tmp_path / "one" / "sweep.yaml").write_text("fixed: [")
    code, _, err = command("sweep", "--resume=one", f"--checkpoint-dir={tmp_path}")
    assert code == 2 and "sweep.yaml cannot be read" in err and err.count("\n") == 1
    code, _, err = command("sweep", "--resume=ona", f"--checkpoint-dir={tmp_path}")
    assert code == 2 and "ona is no sweep" in err and "Did you mean one?" in err and err.count("\n") == 1
    code, _, err = command("sweep", "--resume=two", f"--checkpoint-dir={tmp_path}")
    assert code == 2 and "is no sweep" in err and err.count("\n") == 1


# ---- trials


@pytest.fixture
def run_sweep(command, dogcat, tmp_path, monkeypatch):
    """A sweep in this process."""
    monkeypatch.setattr(worker, "WAIT", 0.2)

    def run(*words: str, name: str = "one") -> tuple[int, str, str]:
        new = [*TINY, f"--train-data-root={dogcat}/train", f"--name={name}"]
        given = [] if any("--resume" in word for word in words) else new
        return command(
            "sweep",
            *unless_given(given, words),
            f"--checkpoint-dir={tmp_path}",
            *words,
        )

    return run


def ended(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("trial_*.json"))]


def test_a_sweep_leaves_runs_a_preset_of_the_best_and_goes_on_to_more(run_sweep, tmp_path, command):
    code, out, err = run_sweep("--lr=1e-4..1e-1", "--optimizer=SGD,AdamW", "--trials=2")
    assert code == 0 and not err, err
    one = tmp_path / "one"
    assert [told["ended"] for told in ended(one)] == ["complete"] * 2
    assert out.count(" complete ") == 2 and "best: trial_00" in out and f"--config={one}/best.yaml" in out
    for path in sorted(one.glob("trial_*.yaml")):
        told = json.loads(path.with_suffix(".json").read_text())
        history = [json.loads(line) for line in (path.with_suffix("") / "metrics.jsonl").read_text().splitlines()]
        assert told["value"] == max(event["val_accuracy"] for event in history if event["kind"] == "epoch")
    assert "would take" in out
    code, out, err = command("runs", f"--checkpoint-dir={tmp_path}")
    assert code == 0 and "sweep one: 2 of 2 trials, the best trial_00" in out, err
    code, _, err = run_sweep("--resume=one", "--sampler=grid")
    assert code == 2 and "--sampler has no effect on a sweep that is resumed" in err
    code, out, err = run_sweep("--resume=one", "--trials=3")
    assert code == 0 and out.count("complete") == 3 and len(ended(one)) == 3
    code, out, _ = command("train", f"--config={one}/best.yaml", f"--checkpoint-dir={tmp_path}", "--name=again")
    assert code == 0 and (tmp_path / "again" / "last.pth").exists()
    code, _, err = command("train", f"--config={one}/best.yaml", f"--checkpoint-dir={tmp_path}", "--name=again")
    assert code == 2 and "again" in err and err.count("\n") == 1


def test_a_trial_starts_processes_as_a_plain_run_does(run_sweep, tmp_path):
    """Readers of images that were started as the sweep starts its trainings once imported torch anew: 7 s a trial."""
    (tmp_path / "mine.py").write_text(
        "import multiprocessing\nfrom runs.sinks import Sink\n\nclass Says(Sink):\n"
        "    def __init__(self, *args, **kwargs):\n"
        f"        open({str(tmp_path / 'said')!r}, 'w').write(str(multiprocessing.get_start_method()))\n"
    )
    code, out, err = run_sweep("--trials=1", "--lr=1e-3..1e-2", f"--sinks={tmp_path}/mine.py:Says")
    usual = [sys.executable, "-c", "import multiprocessing; print(multiprocessing.get_start_method())"]
    assert code == 0 and (tmp_path / "said").is_file(), out + err
    assert (tmp_path / "said").read_text() == subprocess.run(usual, capture_output=True, text=True).stdout.strip()


def test_a_trial_that_fails_is_a_row_with_its_reason(run_sweep, tmp_path):
    code, out, err = run_sweep("--lr=1e-3,1e30", "--optimizer=SGD", "--max-epoch=2", "--sampler=grid")
    assert code == 0 and not err, err
    told = ended(tmp_path / "one")
    assert [one["ended"] for one in told] == ["complete", "failed"] and "finite" in told[1]["why"], told


def test_no_trial_is_begun_that_would_not_end_within_the_hours(run_sweep, tmp_path):
    code, out, err = run_sweep("--lr=1e-3,1e-2,1e-1", "--sampler=grid", "--max-epoch=2", "--hours=1e-9")
    assert code == 0 and not err and not ended(tmp_path / "one"), out + err
    code, out, _ = run_sweep("--resume=one", "--hours=1")
    assert code == 0 and len(ended(tmp_path / "one")) == 3 and "all of them within --hours" in out


def test_a_database_gets_a_copy_and_may_be_gone(run_sweep, tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    code, _, err = run_sweep("--lr=1e-3,1e30", "--optimizer=SGD", "--max-epoch=2", "--sampler=grid", f"--storage={url}")
    assert code == 0, err
    copied = study.optuna.load_study(study_name="one", storage=url).trials
    assert [trial.state.name for trial in copied] == ["COMPLETE", "FAIL"]
    assert [trial.params for trial in copied] == [{"lr": "1e-3"}, {"lr": "1e30"}]
    assert copied[0].value == ended(tmp_path / "one")[0]["value"] and len(copied[0].intermediate_values) == 2
    code, out, err = run_sweep("--ema=0,0.9", "--sampler=grid", "--storage=sqlite:////nowhere/x.db", name="two")
    assert code == 0 and len(ended(tmp_path / "two")) == 2 and out.count("warning: the database") == 1, err


def test_seeds_count_by_their_mean(run_sweep, tmp_path):
    code, _, err = run_sweep("--lr=1e-3,1e-2", "--sampler=grid", "--seeds=2", "--pruner=none")
    assert code == 0, err
    one = tmp_path / "one"
    assert sorted(p.name for p in one.iterdir() if p.is_dir() and p.name[0] != ".") == [
        "trial_000",
        "trial_000_seed1",
        "trial_001",
        "trial_001_seed1",
    ]
    told = ended(one)[0]
    values = []
    for name in ("trial_000", "trial_000_seed1"):
        events = [json.loads(line) for line in (one / name / "metrics.jsonl").read_text().splitlines()]
        values.append(max(event["val_accuracy"] for event in events if event["kind"] == "epoch"))
    assert told["value"] == pytest.approx(sum(values) / 2) and told["spread"] is not None


def test_a_trial_whose_worker_was_killed_goes_on_as_if_it_had_never_been(run_sweep, tmp_path, dogcat):
    flags = ["--lr=1e-3,1e-2", "--sampler=grid", "--max-epoch=6", "--save-every=1", "--pruner=none"]
    assert run_sweep(*flags, name="whole")[0] == 0
    new = [*TINY, f"--train-data-root={dogcat}/train", "--name=one", f"--checkpoint-dir={tmp_path}"]
    words = [*unless_given(new, tuple(flags)), *flags]
    process = subprocess.Popen([sys.executable, str(ROOT / "main.py"), "sweep", *words], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 100
    while len(list((tmp_path / "one" / "trial_000").glob("step_*.pth"))) < 1 and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, out, err = run_sweep("--resume=one")
    assert code == 0 and not err and out.count("complete") == 2, out + err
    for name in ("trial_000", "trial_001"):
        runs = [tmp_path / which / name for which in ("one", "whole")]
        assert record(runs[0]) == record(runs[1])
        states = [trained(checkpoints.read(run / "last.pth")) for run in runs]
        assert same(*states)


def test_a_training_waits_for_the_last_moments_of_one_whose_worker_was_killed(command, dogcat, tmp_path):
    """It may make its run folder just then; the next one that was told to make it would end with an error."""
    run, errors, away = tmp_path / "trial_000", tmp_path / "errors.txt", tmp_path / "away"
    words = [*TINY, f"--train-data-root={dogcat}/train", f"--checkpoint-dir={tmp_path}"]
    assert command("train", *words, "--name=trial_000")[0] == 0
    run.rename(away)
    errors.touch()
    with locked(errors):
        on = [f"--resume={run}", "--max-epoch=2", f"--checkpoint-dir={tmp_path}"]
        process = worker.start_training(run, [*words, "--name=trial_000"], on, {}, errors)
        time.sleep(2)
        away.rename(run)
    process.join()
    assert process.exitcode == 0 and not errors.read_text(), errors.read_text()
    assert [epoch["epoch"] for epoch in history.read(run).epochs] == [1, 2]


def test_ctrl_c_saves_the_trial_at_hand_and_the_same_command_goes_on(run_sweep, tmp_path, dogcat):
    flags = ["--lr=1e-3,1e-2", "--sampler=grid", "--max-epoch=400"]
    new = [*TINY, f"--train-data-root={dogcat}/train", "--name=one", f"--checkpoint-dir={tmp_path}"]
    words = [*unless_given(new, tuple(flags)), *flags]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "sweep", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 100
    while not (tmp_path / "one" / "trial_000" / "last.pth").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and not err, err
    assert f"To go on: python main.py sweep --resume={tmp_path}/one" in out
    assert "stopped by" in (tmp_path / "one" / "trial_000" / "log.txt").read_text()
    assert not ended(tmp_path / "one")


def test_a_poor_trial_is_pruned_and_can_be_resumed_by_hand(run_sweep, tmp_path, command, monkeypatch):
    monkeypatch.setattr(
        worker.Worker, "_is_poor", lambda self, trial, past: trial.number == 1 and max(trial.values) >= 2
    )
    code, out, err = run_sweep("--lr=1e-3,1e-2", "--sampler=grid", "--max-epoch=40")
    if code:
        raise AssertionError(err)
    told = ended(tmp_path / "one")
    assert [one["ended"] for one in told] == ["complete", "pruned"] and list(told[1]["values"]) == ["1", "2"]
    run = tmp_path / "one" / "trial_001"
    assert len(list(run.glob("step_*.pth"))) == 1 and not (run / "STOP").exists()
    assert folder.LOST > 2 * folder.BEAT


def test_two_trials_at_a_time(run_sweep, tmp_path):
    assert run_sweep("--lr=1e-3,2e-3,3e-3,4e-3,5e-3", "--sampler=grid", "--max-epoch=2", "--trials=1")[0] == 0
    code, out, err = run_sweep("--resume=one", "--trials=4", "--parallel=2")  # not the 20 of the default
    assert code == 0 and not err, err
    assert [told["ended"] for told in ended(tmp_path / "one")] == ["complete"] * 4 and out.count(" complete ") == 4
    assert {path.stem for path in (tmp_path / "one" / ".workers").glob("*.0")} == {"000", "001", "002", "003"}
    options = (tmp_path / "one" / "trial_003" / "config.yaml").read_text()
    assert f"threads: {max(len(os.sched_getaffinity(0)) // 2, 1)}\n" in options


def test_tasks_of_a_launcher_are_workers_whose_trainings_are_their_own(tmp_path, dogcat):
    """A training that saw the launcher would wait for the others, or go on with the last trial's run."""
    flags = ["--lr=1e-3,2e-3,3e-3,4e-3", "--sampler=grid"]
    new = [*TINY, f"--train-data-root={dogcat}/train", "--name=one", f"--checkpoint-dir={tmp_path}", *flags]
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    tasks = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), "sweep", *new],
            env=os.environ | slurm | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_STEP_NODELIST": "localhost"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    out = [task.communicate(timeout=200)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0] and out[0].count(" complete ") == 4 and not out[1], out
    assert [told["ended"] for told in ended(tmp_path / "one")] == ["complete"] * 4
    assert not list((tmp_path / "one").glob("*/.launch"))


def test_the_page_of_a_sweep_shows_its_trials(run_sweep, tmp_path, command):
    assert run_sweep("--lr=1e-4..1e-1", "--optimizer=SGD,AdamW", "--trials=5")[0] == 0
    path = tmp_path / "page.html"
    code, out, err = command("report", "one", "--no-gallery", f"--report-file={path}", f"--checkpoint-dir={tmp_path}")
    assert code == 0 and not err, err
    page = path.read_text()
    assert "What mattered" in page and "5 complete." in page and page.count('class="line c0 faint"') >= 4
    best = max(ended(tmp_path / "one"), key=lambda told: told["value"])
    assert f"{best['value']:.2%}" in page and f"{tmp_path}/one/trial_00" in page
