"""Options: defaults < saved run < preset < flags, one typed way in for text."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from cli import presets
from cli.resolve import resolve as resolve_options
from config import Config
from utils.errors import UsageError


def resolve(command="train", saved=None, **flags):
    return resolve_options(command, flags, saved)


def preset(tmp_path, text, name="p.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_work_in_a_notebook():
    opt = Config(lr=0.1)
    assert opt.lr == 0.1 and opt.model == "ResNet34" and opt.batch_size == 32
    opt.lr = "1e-2"
    assert opt.lr == 0.01
    with pytest.raises(UsageError, match="^lr takes number > 0, not -1.$"):
        opt.lr = -1
    with pytest.raises(UsageError, match="^lr takes number > 0, not 'fast'.$"):
        Config(lr="fast")
    with pytest.raises(UsageError, match="unknown option 'optimiser'. Did you mean optimizer"):
        Config(optimiser="SGD")


def test_the_books_way_of_changing_options():
    """Chapter 6, 6.1.7."""
    from config import DefaultConfig

    opt = DefaultConfig()
    assert opt.parse({"lr": 0.1, "use_gpu": False}) is opt and (opt.lr, opt.use_gpu) == (0.1, False)
    assert Config.parse({"lr": 0.2}).lr == 0.2 and opt.lr == 0.1
    with pytest.raises(UsageError, match="unknown option 'lrr'"):
        opt.parse({"seed": 3, "lrr": 1})
    assert opt.seed == 0  # nothing is changed where anything is wrong


def test_precedence(tmp_path):
    path = preset(tmp_path, "lr: 2e-3\nbatch_size: 16\nseed: 5\n")
    saved = {"lr": 0.5, "batch_size": 8, "max_epoch": 3, "an_option_of_another_version": 1}
    opt = resolve(config=path, saved=saved, batch_size="4")
    assert (opt.lr, opt.batch_size, opt.seed, opt.max_epoch) == (2e-3, 4, 5, 3)


def test_no_preset_from_python():
    assert resolve(config=None) == Config(dataset="DogCat")


def test_base_presets(tmp_path):
    preset(tmp_path, "lr: 1e-3\nseed: 1\nmodel: AlexNet\n", "a.yaml")
    preset(tmp_path, "base: a.yaml\nseed: 2\n", "b.yaml")
    opt = resolve(config=preset(tmp_path, "base: b.yaml\nmax_epoch: 7\n", "c.yaml"))
    assert (opt.lr, opt.seed, opt.model, opt.max_epoch) == (1e-3, 2, "AlexNet", 7)
    opt = resolve(config=preset(tmp_path, "base: demo\nseed: 3\n", "d.yaml"))
    assert (opt.dataset, opt.seed) == ("Demo", 3)


def test_a_missing_base_is_told_with_its_line(tmp_path):
    path = preset(tmp_path, "seed: 1\nbase: nope\n")
    with pytest.raises(UsageError, match="line 2: base: unknown preset 'nope'"):
        resolve(config=path)


def test_presets_in_a_circle(tmp_path):
    preset(tmp_path, "base: b.yaml\n", "a.yaml")
    path = preset(tmp_path, "base: a.yaml\n", "b.yaml")
    with pytest.raises(UsageError, match="leads back to itself"):
        resolve(config=path)


@pytest.mark.parametrize("text", ["a#b", "0701", "1e3", "true", "no", "None_", "中文", "a b", "[1]", "{}", "1_0"])
def test_text_stays_as_typed(text, tmp_path):
    assert resolve(env=text).env == text
    assert resolve(config=preset(tmp_path, f"env: {json.dumps(text, ensure_ascii=False)}\n")).env == text


@pytest.mark.parametrize("text", ["0701", "1e3", "true", "no"])
def test_yaml_guesses_nothing(text, tmp_path):
    assert resolve(config=preset(tmp_path, f"env: {text}\n")).env == text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-3", 0.001),
        ("lr", ".5", 0.5),
        ("batch_size", "012", 12),
        ("use_gpu", "false", False),
        ("use_gpu", "no", False),
        ("use_gpu", "None", None),
        ("channels_last", "off", False),
        ("num_workers", "None", None),
        ("vis_port", "null", None),
        ("load_path", "None", None),
        ("debug_file", "None", None),
        ("dataset", "dogcat", "DogCat"),
        ("model", "alexNet", None),
    ],
)
def test_text_becomes_typed(name, text, value, tmp_path):
    if name == "model":  # AlexNet is ours, alexnet torchvision's
        with pytest.raises(UsageError, match="AlexNet or alexnet"):
            resolve(**{name: text})
        return
    assert getattr(resolve(**{name: text}), name) == value
    assert getattr(resolve(config=preset(tmp_path, f"{name}: {text}\n")), name) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 0.1\nlr: 0.2\n", "line 2: lr is given a second time"),
        ("lr: 0.1\nlearning: 0.2\n", "line 2: unknown option 'learning'"),
        ("lr: 0.1\n\nbatch_size: many\n", "line 3: batch_size takes int >= 1, not 'many'"),
        ("lr: [0.1]\n", "line 1: lr takes number > 0, not ['0.1']"),
        ("- lr\n", "line 1: expected one `option: value`"),
        ("lr: 0.1\n  seed: 1\n", "line 2: broken YAML"),
        ("lr: 'a\n", "broken YAML"),
        (
            "optimizer: adamm\n",
            "line 1: unknown optimizer 'adamm': the optimizers are ",
        ),
    ],
)
def test_wrong_presets_name_file_and_line(text, message, tmp_path):
    path = preset(tmp_path, text)
    with pytest.raises(UsageError) as error:
        resolve(config=path)
    assert path in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid_and_says_what_it_is(name):
    path = presets.locate(name)
    resolve(config=name)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    header = " ".join(line for line in lines if line.startswith("#"))
    for part in (f"python main.py train --config={name}", "Time:", "Result:"):
        assert part in header, f"{path} should say `{part}`"
    differs = [key for key, (text, _) in presets.read(name).items() if text == str(Config.default_of(key))]
    assert not differs, f"{path} repeats the default of {differs}"


def test_every_option_says_what_it_is():
    for name in Config.fields():
        assert Config.help_of(name) and Config.group_of(name) and Config.commands_of(name), name
        assert Config(**{name: Config.default_of(name)}), name


def test_the_schema_is_current():
    made = subprocess.run([sys.executable, "config.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shipped = (ROOT / "configs" / "schema.json").read_text(encoding="utf-8")
    assert json.loads(made) == json.loads(shipped), "run `make schema`"


def test_a_saved_run_is_not_changed_by_options_of_another_command(tmp_path):
    path = preset(tmp_path, "lr: 0.5\nimage_size: 96\nbatch_size: 4\n")
    opt = resolve("val", config=path, saved={"lr": 0.1, "image_size": 64, "batch_size": 8})
    assert (opt.lr, opt.image_size, opt.batch_size) == (0.1, 64, 4)


def test_the_config_of_an_earlier_run_repeats_it(tmp_path):
    """It holds every option; then momentum and nesterov had other defaults."""
    path = preset(tmp_path, "optimizer: Adam\nmomentum: 0.9\nnesterov: true\nlr_decay: 0.5\nscheduler: cosine\n")
    assert resolve(config=path).optimizer == "Adam"


def test_a_preset_beside_a_flag_that_overrides_its_optimizer(tmp_path):
    path = preset(tmp_path, "optimizer: SGD\nmomentum: 0.5\n")
    assert resolve(config=path, optimizer="Adam").momentum == 0.5  # no mistake of whoever typed the flag
    with pytest.raises(UsageError, match="--momentum has no effect: Adam takes no momentum"):
        resolve(config=path, optimizer="Adam", momentum="0.9")
    path = preset(tmp_path, "optimizer: Adam\nmomentum: 0.5\n")
    with pytest.raises(UsageError, match="line 2: momentum has no effect: Adam takes no momentum"):
        resolve(config=path)


def test_what_config_yaml_cannot_hold_stays_text():
    values = "a={1} b=b'x' c=1j d=(1,2) e=" + "(" * 3000
    arguments = Config(model_args=values).model_args
    assert arguments == {"a": "{1}", "b": "bx", "c": "1j", "d": (1, 2), "e": "(" * 3000}
