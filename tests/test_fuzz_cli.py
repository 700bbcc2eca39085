"""Random command lines and presets: each is understood, or refused in one line that every terminal can show.

FUZZ_CASES and FUZZ_SEED in the environment make it longer, and another one.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import main
from config import Config
from utils.options import dashed

pytestmark = pytest.mark.slow

CASES, SEED = int(os.environ.get("FUZZ_CASES", "240")), int(os.environ.get("FUZZ_SEED", "0"))
LONGEST = 1500  # characters of an error

TEXTS = [
    *(
        "",
        " ",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "None",
        "null",
        "~",
        "true",
        "False",
        "no",
        "[]",
        "{}",
        "a=1",
        "=",
        "==",
    ),
    *(
        "~nosuchuser",
        "~nosuchuser/x",
        "/proc",
        "/proc/self",
        "/dev/null",
        "/dev/full",
        "/",
        ".",
        "..",
        "a" * 300,
        "a" * 100_000,
    ),
    *(
        "/".join(["a" * 200] * 40),
        "x\0y",
        "\0",
        "\udc80",
        "caf\udce9/x.pth",
        "a\nb",
        "a\rb",
        "\x1b[31mred",
        "\u202e",
        "猫",
        "é",
    ),
    *(
        "😀",
        "ResNet34",
        "resnet34",
        "timm/",
        "timm/x",
        "timm/\n",
        "a.py:",
        ":",
        "::",
        "a:b:c",
        "x.py:Net",
        "/etc/passwd:Net",
        "a..b:C",
    ),
    *(
        "last",
        "--lr",
        "-",
        "--",
        "'",
        '"',
        "$(ls)",
        "%s %d",
        "{name}",
        "\\",
        "9" * 5000,
        "1_000",
        "0x10",
        "1,2",
        "a.py:f,,b",
        "width=2",
    ),
    *(
        "width",
        "width=[1,2",
        "width=" + "(" * 500,
        "__class__=1",
        "lr=\0",
        "file:///x",
        "http://x",
        "con",
        "*",
        "?",
        "\ufeff",
        "\u2028",
    ),
]
WORDS = [
    "--",
    "-",
    "---",
    "--=",
    "--=x",
    "-lr=1",
    "lr=1",
    "--no-",
    "--no-lr",
    "--no-flip",
    "--flip",
    "--flip=maybe",
    "--help=x",
    "=",
    "",
]
COMMANDS = [
    "train",
    "val",
    "test",
    "generate",
    "check",
    "bench",
    "help",
    "trian",
    "",
    "\n",
    "\udc80",
    "--train",
    "a" * 5000,
]
YAML = [
    *(
        "{}",
        "[]",
        "lr",
        "lr:",
        "lr: [1, [2]]",
        "lr: {a: {b: 1}}",
        "? [a]\n: 1",
        "lr: 1\nlr: 2",
        "\t: x",
        "&a [*a]",
        "lr: *b",
        "---\n---\n",
    ),
    *(
        "!!python/object:os.system x",
        "lr: !!int x",
        "lr: 1\n\0",
        "\ufeffseed: 1",
        "\x85",
        "lr: |\n  1",
        "'lr': \"1\"",
        "%YAML 9.9\n---\nlr: 1",
    ),
    *(
        "a: 1",
        "lr: \x1b[31m",
        "base: x",
        "base: [x]",
        "base: ../p.yaml",
        "base: p.yaml",
        "base:",
        "[" * 1500,
        "{a: " * 1500,
        "- " * 3000,
    ),
    *(
        "lr: " + "[" * 1500,
        "model_args: {1: 2, [3]: 4}",
        "metrics: {a: b}",
        "sinks: [[a]]",
        "lr: 1 # " + "x" * 100_000,
        "x" * 100_000,
    ),
]


def flag(rng: random.Random) -> str:
    """A word that is much like a flag."""
    name = rng.choice([*Config.fields(), "config", "epochs", "gpu"])
    if rng.random() < 0.3:
        place = rng.randrange(len(name))
        name = (
            name[:place]
            + rng.choice(["", "x", "\n", "\0", "\udc80", " ", "é", "\x1b", "=" * 3, "-" * 300])
            + name[place + 1 :]
        )
    return (
        rng.choice(["--", "--", "--", "--", "-", "--no-", ""])
        + dashed(name)
        + rng.choice(["=", "=", "=", "", " "])
        + rng.choice(TEXTS)
    )


def line(rng: random.Random, folder: Path) -> list[str]:
    words = [rng.choice(COMMANDS[:6] if rng.random() < 0.8 else COMMANDS)]
    for _ in range(rng.randrange(1, 5)):
        words.append(rng.choice([flag(rng), flag(rng), flag(rng), rng.choice(WORDS), rng.choice(TEXTS)]))
    if rng.random() < 0.3:
        words.append(f"--config={folder / rng.choice(['p.yaml', 'sub/../p.yaml', 'nowhere.yaml', ''])}")
    # nothing to work on, so that no line that is understood begins a training
    return (
        [*words, "--train-data-root=/nowhere"]
        if rng.random() < 0.7 or words[0] in ("train", "check", "bench")
        else words
    )


def preset(rng: random.Random, path: Path) -> None:
    lines = [rng.choice(YAML) if rng.random() < 0.4 else f"{rng.choice([*Config.fields()])}: {rng.choice(TEXTS)}"]
    lines += [f"{name}: {rng.choice(TEXTS)}" for name in rng.sample([*Config.fields()], rng.randrange(3))]
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))


def is_refusal(err: str) -> bool:
    """Whether stderr holds one line, and that all terminals can show it."""
    return err.startswith("main.py: ") and err.endswith("\n") and err[:-1].isprintable() and len(err) < LONGEST


@pytest.mark.parametrize("part", range(4))
def test_every_line_is_understood_or_refused(part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(f"{SEED}/{part}")
    for number in range(CASES // 4):
        preset(rng, tmp_path / "p.yaml")
        words = line(rng, tmp_path)
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        try:
            main.main()
            code = 0
        except SystemExit as e:
            code = e.code
        except Exception as e:
            raise AssertionError(f"case {number}: {words!r} with {(tmp_path / 'p.yaml').read_bytes()[:300]!r}") from e
        err = capsys.readouterr().err
        assert code == 0 and not err or code == 2 and is_refusal(err), (number, words, code, err[:2000])
        if code == 0:
            assert words[0] == "help" or any(word in ("-h", "-help", "--help") or not words for word in words), words


LINES = [
    ["train", "--resume="],
    ["train", "--load-path="],
    ["train", "--config="],
    ["train", "--model="],
    ["val", "--load-path="],
    ["train", "--model=x\ny"],
    ["train", "--lr\n=1"],
    [b"train", b"--model=\xff\xfe"],
    ["train", f"--load-path={'a' * 5000}"],
    ["train", "--train-data-root=/proc/1/root/x"],
    ["check", "--train-data-root=/proc"],
    ["x" * 100_000],
]


@pytest.mark.parametrize("words", LINES, ids=lambda words: repr(words)[:60])
def test_a_refusal_of_the_program_itself(words, tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    err = done.stderr.decode()
    assert done.returncode == 2 and is_refusal(err), err[-2000:]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "option", ["resume", "load-path", "config", "model", "dataset", "train-data-root", "optimizer", "checkpoint-dir"]
)
def test_a_value_that_is_empty_as_that_of_an_unset_variable(option, command, tmp_path):
    for text in ("", " "):
        code, _, err = command(
            "train", f"--{option}={text}", "--train-data-root=/nowhere" if option != "train-data-root" else "--seed=0"
        )
        assert code == 2 and f"--{option}= is empty" in err and "unset variable" in err


def test_presets_in_a_circle(command, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text("base: sub/b.yaml\n")
    (tmp_path / "sub" / "b.yaml").write_text("base: ../sub/../a.yaml\n")
    code, _, err = command("train", f"--config={tmp_path}/a.yaml")
    assert code == 2 and "its base leads back to itself" in err and is_refusal(err)
