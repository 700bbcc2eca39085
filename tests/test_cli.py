"""The command line: every mistake is one clear line, told before torch is imported and before anything is written."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, resolve_any

import data
import models
from cli import parsing, presets
from cli.resolve import resolve
from config import Config
from engine import resume
from main import COMMANDS
from utils.options import dashed

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
        "unknown data set 'Dogcats': the data sets are ClassFolder, Demo, DogCat, Folder, Unlabelled (and ",
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
    (["help", "nonsense"], "no help on 'nonsense'"),
    (["help", "lrr"], "Did you mean lr?"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_mistakes(words, message, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*words)
    assert code == 2 and out == ""
    assert err.startswith("main.py: ") and err.count("\n") == 1, err
    assert message in err
    assert not list(tmp_path.iterdir())


def test_mistakes_are_refused_before_torch_is_imported(tmp_path):
    """All of them, one after another, in a process of their own."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import main
for words in {[words for words, _ in MISTAKES]!r}:
    sys.argv = ["main.py", *words]
    try:
        main.main()
    except SystemExit as e:
        assert e.code == 2, words
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
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

    monkeypatch.setattr(resume, "resolve_options", resolve_only)
    code, _, _ = command("train", f"--env={env}")
    assert (code, seen) == (130, {"env": None if env == "None" else env})


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
        assert f"--{dashed(name)} " in out
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
    assert code == 0 and out.count("\n") < len(COMMANDS) + 6 and "train --config=demo" in out


def test_the_examples_of_the_help_are_valid_command_lines():
    for function in COMMANDS.values():
        examples = [line.strip() for line in function.__doc__.splitlines() if "python main.py" in line]
        assert examples
        for line in examples:
            name, _, flags = parsing.parse(line.split()[2:], COMMANDS)
            resolve_any(name, flags)


def test_the_editor_schema_is_named_where_it_lies():
    assert (Path(presets.FOLDER) / "schema.json").is_file()


def test_an_option_whose_name_is_a_word_of_python(command, tmp_path):
    assert command("help", "class")[1].startswith("--class: the class of the images")
    assert "Did you mean class? " in command("generate", "--clas=7")[2]
    preset = tmp_path / "one.yaml"
    preset.write_text("class: 7\n", encoding="utf-8")
    assert resolve("generate", {"config": str(preset), "load_path": str(tmp_path)}).class_ == "7"
