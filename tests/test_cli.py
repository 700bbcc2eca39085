"""The command line: every mistake is one clear line, told before torch is imported and before anything is written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY

import data
import main
import models
from cli import parsing, presets
from cli.resolve import resolve
from config import Config
from main import COMMANDS
from utils.errors import UsageError

# Runs main.py and says at the end whether torch was imported.
PROBE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import main
try:
    main.main()
finally:
    sys.stderr.write("torch imported\\n" * ("torch" in sys.modules))
"""

IGNORED = shutil.ignore_patterns("__pycache__", "cache", "train", "test1", "MNIST", "cifar*")

MISTAKES = [
    (["train", "--modle=ResNet34"], "unknown option --modle. Did you mean model?"),
    (["train", "--confg=demo"], "unknown option --confg. Did you mean config?"),
    (["train", "--lr=fast"], "--lr takes number > 0, not 'fast'"),
    (["train", "--lr=-1"], "--lr takes number > 0, not '-1'"),
    (["train", "--lr=nan"], "--lr takes number > 0"),
    (["train", "--lr=inf"], "--lr takes number > 0"),
    (["train", "--lr"], "--lr needs a value"),
    (["train", "--batch-size=3.5"], "--batch-size takes int >= 1, not '3.5'"),
    (["train", "--batch-size=0"], "--batch-size takes int >= 1, not '0'"),
    (["train", "--use-gpu=maybe"], "--use-gpu takes true | false or None, not 'maybe'"),
    (["train", "--scheduler=cosin"], "Did you mean cosine?"),
    (["train", "--model=ResNet43"], "unknown model 'ResNet43'"),
    (["train", "--model=ResNet43"], "Did you mean ResNet34?"),
    (
        ["train", "--dataset=Dogcats"],
        "unknown data set 'Dogcats': the data sets are Demo, DogCat, Folder, Unlabelled (and ",
    ),
    (["train", "--config=dmeo"], "unknown preset 'dmeo'"),
    (["train", "--config=missing.yaml"], "no preset file missing.yaml"),
    (["train", "lr=0.1"], "stray word 'lr=0.1' after train: options start with two dashes, as in --lr=0.1"),
    (["train", "-lr=0.1"], "as in --lr=0.1"),
    (["train", "ResNet34"], "stray word 'ResNet34'"),
    (["train", "--", "--lr=1"], "stray word '--'"),
    (["train", "--=1"], "stray word '--=1'"),
    (["train", "--lr=0.1", "--lr=0.2"], "--lr is given twice, as '0.1' and as '0.2'"),
    (["train", "--train-data-root=a", "--train_data_root=b"], "given twice"),
    (["train", "--normalize"], "unknown option --normalize"),
    (["train", "--no-lr"], "unknown option --no-lr"),
    (["train", "--train-data-root=nowhere"], "no folder nowhere"),
    (["train", "--load-path=nowhere.pth", "--dataset=demo"], "no checkpoint nowhere.pth"),
    (["trian"], "unknown command 'trian'"),
    (["trian"], "Did you mean train?"),
    (["--lr=0.1"], "the command comes first"),
    (["os", "getcwd"], "unknown command 'os'"),
    (["val"], "val needs a checkpoint"),
    (["test"], "test needs a checkpoint"),
    (["val", "--load-path=nowhere"], "no checkpoint nowhere"),
    (["val", "--load-path=last", "--checkpoint-dir=nowhere"], "no run in nowhere"),
    (["test", "--lr=0.1"], "--lr has no effect on test: it is an option of train, bench"),
    (["test", "--model=ResNet43", "--load-path=x"], "unknown model"),
    # what the book and other programs call an option, by a table and not by spelling
    (["train", "--load-model-path=a.pth"], "unknown option --load-model-path: here it is --load-path=a.pth."),
    (["train", "--plot-every=20"], "unknown option --plot-every: here it is --print-freq=20."),
    (["train", "--vis=False"], "--vis-port=None turns it off"),
    (["train", "--learning-rate=0.1"], "here it is --lr=0.1."),
    (["train", "--model=AnimeGAN", "--learning-rate=0.1"], "here it is --lr1=0.1 or --lr2=0.1."),
    (["train", "--nogpu"], "here it is --no-use-gpu."),
    (["train", "--cuda"], "here it is --use-gpu."),
    (["train", "--device", "cpu"], "here it is --no-use-gpu."),
    (["train", "--device=cuda:0"], "here it is --use-gpu."),
    (["train", "--epochs=3"], "here it is --max-epoch=3."),
    (["train", "--workers=3"], "here it is --num-workers=3."),
    (["train", "--log-interval=3"], "here it is --print-freq=3."),
    (["train", "--data-path=a"], "here it is --train-data-root=a."),
    (["test", "--data-path=a"], "here it is --test-data-root=a."),
    (["test", "--learning-rate=1"], "unknown option --learning-rate. `help test` lists"),  # no option of test
    (["generate", "--netg-path=a"], "here it is --load-path=a."),
    (["train", "--max-epoch", "=", "20"], "--max-epoch: no spaces around the equals sign; type --max-epoch=20"),
    (["train", "--max-epoch=", "20"], "type --max-epoch=20"),
    (["train", "--max-epoch", "=20"], "type --max-epoch=20"),
    # what would have no effect
    (["train", "--momentum=0.5"], "--momentum has no effect: Adam takes no momentum"),
    (["train", "--optimizer=Rprop", "--weight-decay=0.1"], "--weight-decay has no effect: Rprop takes no weight_decay"),
    (["train", "--scheduler=onecycle", "--warmup=0.1"], "--warmup has no effect: onecycle has its own"),
    (["train", "--scheduler=cosine", "--lr-decay=0.1"], "--lr-decay has no effect: it is the factor of plateau"),
    # what an unset variable of the shell leaves
    (
        ["train", "--resume="],
        "--resume= is empty: it takes path or None; an unset variable? type --resume=None for none",
    ),
    (["train", "--load-path="], "type --load-path=None for none"),
    (["train", "--load-path", ""], "--load-path= is empty"),
    (["val", "--load-path= "], "--load-path= is empty"),
    (["train", "--model="], "--model= is empty: it takes name; an unset variable?"),
    (["train", "--config="], "--config= is empty: it takes a preset"),
    (["train", "--dataset="], "type --dataset=None for none"),
    (["train", "--metrics="], "type --metrics=None for none"),
    (["train", "--vis-port="], "type --vis-port=None for none"),
    (["train", "--batch-size="], "--batch-size= is empty: it takes int >= 1"),
    # paths that the system does not take
    *[
        ([command, f"--{flag}={path}"], message)
        for command, flag in [
            ("train", "train-data-root"),
            ("train", "resume"),
            ("val", "load-path"),
            ("train", "config"),
        ]
        for path, message in [
            ("x" * 300, "File name too long"),
            ("x/" * 5000, "name too long"),
            ("a\0b", "a character that no path can hold"),
            ("\ud800", "a character that no path can hold"),
            ("~nosuchuser/x", "~nosuchuser/x"),
            ("loop/x", "Too many levels of symbolic links"),
        ]
    ],
    (["train", "--checkpoint-dir=/proc"], "--checkpoint-dir=/proc cannot be written"),
    (["train", "--checkpoint-dir=/proc/x"], "--checkpoint-dir=/proc/x cannot be written"),
    (["train", f"--model={'x' * 300}.py:Net"], "File name too long"),
    (["train", "--model=~nosuchuser/net.py:Net"], "no file ~nosuchuser/net.py"),
    (["train", "--model=a\0b.py:Net"], "a character that no path can hold"),
    # one readable line, whatever was typed
    (["train", f"--lr={'x' * 100_000}"], "xxx...xxx"),
    (["train", f"--{'x' * 100_000}=1"], "xxx...xxx"),
    (["x y " * 30_000], "unknown command 'x y x"),
    (["train", "--lr=a\nb\r\x1b[31m"], r"not 'a\nb\r\x1b[31m'"),
    (["train", "--a\nb=1"], r"unknown option --a\nb"),
    (["train", "-lr=1\n2"], r"as in --lr=1\n2"),
    (["train", "--\udcff=1"], r"unknown option --\udcff"),
    (["help", "nonsense"], "no help on 'nonsense'"),
    (["help", "lrr"], "Did you mean lr?"),
]


@pytest.mark.parametrize(
    ("words", "message"), MISTAKES, ids=lambda v: ascii(" ".join(v))[1:80] if isinstance(v, list) else ""
)
def test_mistakes(words, message, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    code, out, err = command(*words)
    assert code == 2 and out == ""
    assert err.startswith("main.py: ") and err.removesuffix("\n").isprintable() and len(err) < 1000, err
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_mistakes_are_refused_before_torch_is_imported(tmp_path):
    """All of them, one after another, in a process of their own."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import main
for words in {ascii([words for words, _ in MISTAKES])}:
    sys.argv = ["main.py", *words]
    try:
        main.main()
    except SystemExit as e:
        assert e.code == 2, words
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("main.py: ") >= len(MISTAKES)


def test_a_missing_folder_without_any_flag(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROBE, "train"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "no folder data/train" in done.stderr and "--config=demo" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_word_runs_code(tmp_path):
    for words in (["os", "getcwd"], ["train", "--env=__import__('os').system('touch hacked')"], ["fire", "Fire"]):
        subprocess.run([sys.executable, "-c", PROBE, *words], cwd=tmp_path, capture_output=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--lr=1e-3"], {"lr": "1e-3"}),
        (["--lr", "1e-3"], {"lr": "1e-3"}),
        (["--train-data-root=a", "--train_data_root=a"], {"train_data_root": "a"}),
        (["--use-gpu"], {"use_gpu": "true"}),
        (["--use-gpu", "--lr=1"], {"use_gpu": "true", "lr": "1"}),
        (["--use-gpu=false"], {"use_gpu": "false"}),
        (["--use_gpu", "false"], {"use_gpu": "false"}),
        (["--no-use-gpu"], {"use_gpu": "false"}),
        (["--env=a#b"], {"env": "a#b"}),
        (["--env=a=b"], {"env": "a=b"}),
        (["--env="], {"env": ""}),
        (["--seed", "-1"], {"seed": "-1"}),
    ],
)
def test_flags(words, flags):
    assert parsing.parse(["train", *words], COMMANDS) == ("train", [], flags)


@pytest.mark.parametrize("env", ["a#b", "0701", "1e3", "true", "None", "[1,2]", "a b", "--x", "{1:2}", "'q'"])
def test_values_arrive_as_typed_through_fire(env, command, monkeypatch):
    seen = {}

    def resolve_only(flags):
        seen["env"] = resolve("train", flags).env
        raise KeyboardInterrupt

    monkeypatch.setattr(main.resume, "resolve_options", resolve_only)
    code, _, _ = command("train", f"--env={env}")
    assert (code, seen) == (130, {"env": env})


TOPICS = [
    *COMMANDS,
    *Config.fields(),
    *models.names(),
    *data.names(),
    *presets.names(),
    "resnet50",
    "config",
    "train-data-root",
]


@pytest.mark.parametrize("topic", TOPICS)
def test_help_on_everything(topic, command):
    code, out, err = command("help", topic)
    assert code == 0 and err == ""
    assert len(out) > 60 and "None\n\nNone" not in out


def test_help_lists_everything(command):
    _, out, _ = command("help")
    for name in [*COMMANDS, *models.names(), *models.torchvision_names(), *data.names(), *presets.names()]:
        assert name in out
    for name in Config.fields():
        assert f"--{name.replace('_', '-')} " in out
        assert Config.help_of(name).split()[0] in out


def test_help_flag_anywhere(command):
    page = command("help", "train")
    assert "--lr" in page[1] and "--result-file" not in page[1]
    assert command("train", "--help") == page
    assert command("--help", "train") == page
    assert command("train", "--lr=0.1", "--help") == page
    assert command("train", "-h") == page
    assert command("--help") == command("help")


@pytest.mark.slow
def test_help_needs_no_torch():
    for words in ([], ["help"], ["help", "lr"], ["help", "ResNet34"], ["train", "--help"]):
        done = subprocess.run([sys.executable, "-c", PROBE, *words], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), words


def test_alone_it_shows_a_short_help(command):
    code, out, _ = command()
    assert code == 0 and out.count("\n") < 15 and "train --config=demo" in out


def test_the_examples_of_the_help_are_valid_command_lines():
    for function in COMMANDS.values():
        examples = [line.strip() for line in function.__doc__.splitlines() if "python main.py" in line]
        assert examples
        for line in examples:
            name, _, flags = parsing.parse(line.split()[2:], COMMANDS)
            if name != "help":
                resolve(name, flags)


@pytest.mark.parametrize("folder", ["models", "data", "engine/tasks", "runs/sinks"])
def test_a_broken_file_is_named_and_stops_only_what_needs_it(folder, dogcat, tmp_path):
    """In a copy of the program, as somebody who writes a model would leave it."""
    for name in ("cli", "configs", "data", "engine", "models", "runs", "utils", "main.py", "config.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name, **({"ignore": IGNORED} if copy is shutil.copytree else {}))
    (tmp_path / folder / "mine.py").write_text("\n\nclass Mine(BasicModule: pass\n")

    def run(*words):
        line = [sys.executable, tmp_path / "main.py", *words]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})

    told = f"{folder}/mine.py, line 3: cannot be read as Python: "
    shown, unknown = run("help"), run("train", f"--{'dataset' if folder == 'data' else 'model'}=Mine")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert (told in shown.stdout.splitlines()[-1]) == (folder != "runs/sinks")
    assert unknown.returncode == 2 and unknown.stderr.count("\n") == 1 and "unknown " in unknown.stderr
    assert (told in unknown.stderr) == (folder in ("models", "data"))
    assert run("help", "lr").returncode == 0
    if folder not in ("runs/sinks", "engine/tasks"):
        assert "no folder nowhere" in run("train", "--train-data-root=nowhere").stderr
        return
    trained = run("train", *TINY, f"--train-data-root={dogcat}/train")
    assert trained.returncode == 0, trained.stderr
    assert (told in trained.stdout) == (folder == "runs/sinks")


def test_where_the_default_models_file_is_broken_it_is_named(monkeypatch, command, tmp_path):
    shutil.copytree(ROOT / "models", tmp_path / "models")
    (tmp_path / "models" / "resnet34.py").write_text("class ResNet34(")
    monkeypatch.setattr(models, "FOLDER", tmp_path / "models")
    models.entries.cache_clear()
    try:
        code, _, err = command("train", f"--train-data-root={tmp_path}")
        with pytest.raises(AttributeError, match=r"Left out: .*resnet34\.py, line 1"):
            _ = models.ResNet34
    finally:
        models.entries.cache_clear()
    assert code == 2 and "unknown model 'ResNet34'" in err and "resnet34.py, line 1: cannot be read as Python" in err


def test_a_broken_preset_leaves_the_help(monkeypatch, command, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"# bad \xff\nlr: 1\n")
    (tmp_path / "folder.yaml").mkdir()
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    for topic in ([], ["config"], ["bad"]):
        code, out, _ = command("help", *topic)
        assert code == 0 and r"bad \xff" in out


# Python beside the user's own files of our packages' names; {ROOT} is the repository.
BESIDE = """
import sys
sys.path.append({ROOT!r})
{first}from main import check, train
from config import Config
import utils.errors, data, models
try:
    check(train_data_root="nowhere")
except utils.errors.UsageError as e:
    print(e, data.names()[0], models.ResNet34.__name__, Config().model)
"""


@pytest.mark.parametrize(
    "own", ["utils.py", "data.py", "models/__init__.py", "config.py", "cli/__init__.py", "engine.py"]
)
def test_main_is_imported_beside_modules_of_the_same_names(own, tmp_path):
    name = own.partition("/")[0].removesuffix(".py")
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("mine = 1\n")

    def run(first):
        (tmp_path / "script.py").write_text(BESIDE.format(ROOT=str(ROOT), first=first))
        words = [sys.executable, tmp_path / "script.py"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})

    done = run("")
    assert done.returncode == 0 and done.stdout.startswith("no folder nowhere"), done.stderr
    done = run(f"import {name}; ")
    assert done.returncode == 1
    assert f"main.py has its own '{name}', and {tmp_path / own} is imported" in done.stderr.splitlines()[-1]


def test_our_own_modules_may_be_imported_first_and_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(ROOT)
    words = [sys.executable, "-c", "import config, models; import main; print(main.check.__name__)"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "link"})
    assert (done.returncode, done.stdout) == (0, "check\n"), done.stderr


def test_in_python_a_command_exits_from_nothing(tmp_path, folders):
    """What would stop a run is returned; the exit code 1 is the command line's."""
    shutil.copytree(folders, tmp_path / "set")
    (tmp_path / "set" / "cat" / "0.png").write_bytes(b"no image")
    found = main.check(dataset="Folder", train_data_root=str(tmp_path / "set"), image_size=32, use_gpu=False)
    assert len(found) == 1 and "1 unreadable" in found[0]
    for call in (lambda: main.check(train_data_root="nowhere"), lambda: main.train(lr="fast"), lambda: main.val()):
        with pytest.raises(UsageError):
            call()


def test_the_editor_schema_is_named_where_it_lies():
    assert (Path(presets.FOLDER) / "schema.json").is_file()
