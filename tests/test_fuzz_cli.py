"""Random command lines and presets: each gives options, or one readable line; never a traceback.

FUZZ_CASES=20000 FUZZ_SEED=1 pytest tests/test_fuzz_cli.py tries more, and others.
"""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from conftest import ROOT

from cli import help as help_pages
from cli import parsing, presets
from cli.resolve import resolve
from config import Config
from main import COMMANDS
from utils.errors import UsageError
from utils.options import dashed

CASES = int(os.environ.get("FUZZ_CASES", 600))  # command lines, and as many presets
SEED = int(os.environ.get("FUZZ_SEED", 0))
STARTED = 10  # command lines in a process of their own
LONGEST = 1000  # characters of a message

ODD = [
    *("", " ", "-", "--", "---", "=", "==", ":", "::", "a:", ":a", ".", "..", "/", "~", "~nosuchuser", "~nosuchuser/x"),
    *(
        "/proc",
        "/proc/self/mem",
        "/dev/null",
        "/dev/full",
        "\0",
        "a\0b",
        "\n",
        "a\nb",
        "\r\x1b[31mred\x07",
        "\t",
        "\u2028",
    ),
    *("\udcff", "a/\udcff\udc80.yaml", "\ud800", "\N{PILE OF POO}", "ﬁ", "İ", "\u202etxt", "é", "猫/狗.yaml"),
    *(
        "None",
        "null",
        "none",
        "true",
        "False",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "-1",
        "0",
        "1.5",
        "0x10",
        "1_0",
        "1e-3",
        "٣",
    ),
    *(
        "9" * 30,
        "9" * 5000,
        "(" * 500,
        "[" * 5000,
        "{[]:1}",
        "{1,2}",
        "b'x'",
        "...",
        "-" * 5000,
        "1+2j",
        "'",
        '"',
        "'a",
    ),
    *("a=b", "width=2", "width=(1,", "a=b=c", "=x", "width=[[1]]", "a=1 a=2", "a='\\", "a=\0", "a=" + "[" * 500),
    *(
        "last",
        "demo",
        "Demo",
        "ResNet34",
        "alexnet",
        "resnet18",
        "AnimeGAN",
        "timm/",
        "timm/\n",
        "timm/resnet50.",
        "plateau",
    ),
    *("net.py:Net", "a/" * 3000 + "net.py:Net", "/proc:Net", "os:getcwd", "os.path:\0", ".:.", "a..b:c", "__main__:x"),
    *(
        "~nosuchuser/net.py:N",
        "\0.py:N",
        "\ud800:N",
        "net.py:Net,net.py:Other",
        ",,,",
        "a.py:f,\n:",
        "missing.yaml",
        "x/y.yml",
    ),
    *(
        "x" * 300,
        "x" * 5000,
        "x/" * 3000,
        "x" * 100_000,
        "x " * 50_000,
        "\n" * 5000,
        "\0" * 5000,
        "=" * 5000,
        "%s%d{0}{a}",
    ),
]


def word(random: Random) -> str:
    """A value or a name: an odd one, two of them joined, or random characters."""
    kind = random.random()
    if kind < 0.6:
        return random.choice(ODD)
    if kind < 0.8:
        return random.choice(ODD) + random.choice(ODD)
    alphabet = random.choice(
        ["abc-_=:./~", "\0\n\r\t\x1b\x7f", "0123456789.e+-", "\ud800\udcff\u202e\u2028é猫", "[]{}()'\"\\,"]
    )
    return "".join(random.choices(alphabet, k=random.choice([1, 3, 20, 300])))


def name(random: Random) -> str:
    """Of an option: mostly a real one; else cut, doubled, misspelt, or anything."""
    real = random.choice([*Config.fields(), "config", "base"])
    kind = random.random()
    if kind < 0.6:
        return real
    cut = random.randrange(len(real) + 1)
    others = [
        real[:cut],
        real + real[cut:],
        "no_" + real,
        real.upper(),
        real[:cut] + word(random) + real[cut:],
        word(random),
    ]
    return random.choice(others)


def command_line(random: Random) -> list[str]:
    command = random.choice([*COMMANDS, "train", "train", "val", word(random)])
    words = [command]
    for _ in range(random.choice([0, 1, 1, 1, 2, 3, 8])):
        flag = random.choice(["--", "--", "--", "--", "-", "", "---"]) + random.choice([dashed, str])(name(random))
        kind = random.random()
        words += [f"{flag}={word(random)}"] if kind < 0.7 else [flag, word(random)] if kind < 0.85 else [flag]
    if random.random() < 0.2 and len(words) > 1:
        words.append(random.choice(words[1:]))
    return words


def quoted(random: Random) -> str:
    """A value of YAML: plain, quoted with escapes, or nested."""
    text = word(random)
    escapes = "".join(c if c.isalnum() else f"\\u{ord(c):04x}" if ord(c) < 65536 else f"\\U{ord(c):08x}" for c in text)
    depth = random.choice([1, 2, 5, 1500])
    return random.choice(
        [text, f'"{escapes}"', f"[{text}]", f"{{a: {text}}}", f"{{a: 1, a: {text}}}", f"&x [*x, {text}]", f"*{text}"]
        + ["[" * depth + "]" * depth, "{a: " * depth + "}" * depth, f"|\n  {text}", f"!!binary {text}", "", "~"]
    )


def preset(random: Random, folder: Path) -> Path:
    """A file in `folder` or below it, which may name others of them, itself too, as its base."""
    places = ["a.yaml", "b.yaml", "sub/c.yaml", "sub/../b.yaml"]
    lines = []
    for _ in range(random.choice([0, 1, 1, 2, 4])):
        key = name(random) if random.random() < 0.9 else quoted(random)
        lines.append(f"{key}: {quoted(random)}")
    if random.random() < 0.5:
        lines.append(
            f"base: {random.choice([*places, '../sub/c.yaml', '../a.yaml', './a.yaml', 'demo', quoted(random)])}"
        )
    if random.random() < 0.1:
        lines.append(random.choice(["---", "- a", "\t", "? a", "%YAML 9.9", ": :", "<<: *a", "..." * 5]))
    random.shuffle(lines)
    path = folder / random.choice(places)
    text = "\n".join(lines).encode("utf-8", "surrogatepass" if random.random() < 0.3 else "replace")
    path.write_bytes(text + random.choice([b"", b"", b"", b"\xff\xfe", b"\0"]))
    return path


@contextlib.contextmanager
def told_in_one_line(shown: object) -> Iterator[None]:
    """Passes where the block ends well, or with a UsageError of one printable line; anything else fails the test."""
    try:
        yield
    except UsageError as e:
        assert str(e).strip() and str(e).isprintable() and len(str(e)) < LONGEST, (shown, str(e))
    except Exception as e:
        raise AssertionError(f"FUZZ_SEED={SEED}: {ascii(shown)[:2000]} raised {type(e).__name__}") from e


def run(words: list[str]) -> None:
    """What main.py does before it opens data."""
    command, topics, flags = parsing.parse(words, COMMANDS)
    if command == "help":
        help_pages.page(topics, COMMANDS)
    else:
        opt = resolve(command, flags)
        assert Config(**opt.model_dump()).model_dump() == opt.model_dump()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in, with one below it."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "net.py").write_text("class Net: pass\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_any_command_line_is_taken_or_told_in_one_line(folder):
    random = Random(SEED)
    for _ in range(CASES):
        words = command_line(random)
        with told_in_one_line(words), contextlib.redirect_stdout(io.StringIO()):
            run(words)


def test_any_preset_is_taken_or_told_in_one_line(folder):
    random = Random(SEED)
    for _ in range(CASES):
        path = preset(random, folder)
        with told_in_one_line(path.read_bytes()):
            presets.read(path)
            run(["train", f"--config={path}"])


def test_no_command_line_ends_in_a_traceback(folder):
    """The same in processes of their own, by bytes as a shell passes them."""
    random = Random(SEED)
    lines: list[list[str]] = []
    while len(lines) < STARTED:
        words = command_line(random)
        passable = "\0" not in "".join(words) and "\ud800" not in "".join(words) and max(map(len, words)) < 50_000
        try:
            run(words)
        except UsageError:
            lines += [words] if passable else []
    for words in lines:
        done = subprocess.run(
            [sys.executable, ROOT / "main.py", *words],
            env=os.environ | {"PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
        )
        shown = shlex.join(words)[:2000].encode("ascii", "backslashreplace")
        assert (done.returncode, done.stdout) == (2, ""), (shown, done.stderr)
        assert done.stderr.startswith("main.py: ") and done.stderr.count("\n") == 1, (shown, done.stderr)
