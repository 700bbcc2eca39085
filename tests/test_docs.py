"""What README and docs say is so: files are run as they stand, commands parse, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, unless_given

import data
import main
from cli import parsing, presets
from cli.resolve import resolve
from config import Config
from data.demo import drawing

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CHINESE = ROOT / "README.zh.md"
TINY = ["--max-epoch=1", "--image-size=32", "--batch-size=16", "--num-workers=0", "--vis-port=None", "--use-gpu=false"]


def commands(text: str) -> list[str]:
    """The lines `python main.py ...` of a text, also behind a `$`."""
    return re.findall(r"^ *\$? *(python main\.py .*?)(?: +#.*)?$", text, re.MULTILINE)


def chapters() -> dict[str, str]:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A folder with the demo's images, few of them, where the docs expect them."""
    root = tmp_path_factory.mktemp("docs")
    drawing.write(root / "data" / "demo", train_per_class=8, test=4)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("title", chapters())
def test_each_chapter_of_extending_runs_as_it_stands(title, demo, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(demo / "data")
    files = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", chapters()[title], re.DOTALL)
    lines = commands(chapters()[title])
    assert files and lines
    for name, text in files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    for line in lines:
        words = shlex.split(line)[2:]
        flags = [flag for flag in unless_given(TINY, tuple(words)) if words[0] == "train"]
        if any("resume" in word for word in words):
            flags = []
        if words[0] in ("val", "test"):
            flags = ["--num-workers=0"]
        code, out, err = command(*words, *flags)
        assert code == 0, f"{line}\n{err}"
        assert out
    if title == "A sink":
        (csv,) = tmp_path.glob("checkpoints/*/epochs.csv")
        assert [line.split(",")[0] for line in csv.read_text().splitlines()] == ["1", "2"]
    if title == "A metric":
        (record,) = tmp_path.glob("checkpoints/*/metrics.jsonl")
        assert '"val_worst_class"' in record.read_text()


@pytest.mark.parametrize("page", [*PAGES, CHINESE], ids=lambda page: page.name)
def test_every_command_is_one(page):
    text = page.read_text(encoding="utf-8")
    mistakes = set(re.findall(r"^ *\$ (python main\.py .*)\n +main\.py: ", text, re.MULTILINE))
    for line in commands(text):
        if line in mistakes:  # shown with the line that refuses them
            continue
        words = shlex.split(line)[2:]
        command, _, flags = parsing.parse(words, main.COMMANDS)
        own = {name for name, value in flags.items() if ".py:" in value}
        known = {name: value for name, value in flags.items() if name not in own}
        for name in own:
            assert command in Config.commands_of(name), line
        if command != "help" and "..." not in line:
            resolve(command, known)


def test_the_mistakes_of_the_readme_are_answered_as_it_says(command):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^ *\$ (python main\.py .*)\n +(main\.py: .*)$", text, re.MULTILINE)
    assert len(shown) >= 4
    for line, answer in shown:
        assert command(*shlex.split(line)[2:]) == (2, "", answer + "\n")


def test_the_presets_name_their_command():
    for name in presets.names():
        for line in commands(presets.locate(name).read_text(encoding="utf-8").replace("# Command: ", "")):
            command, _, flags = parsing.parse(shlex.split(line)[2:], main.COMMANDS)
            assert resolve(command, flags)


def test_both_readmes_say_the_same():
    english, chinese = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "README.zh.md"))
    assert len(english.splitlines()) <= 200
    assert commands(english) == commands(chinese)
    for pattern in (r"^#+ ", r"^\| ", r"`[^`\n]+`"):
        counts = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert abs(counts[0] - counts[1]) <= (0 if pattern != r"`[^`\n]+`" else 6), pattern


@pytest.mark.parametrize("page", [*PAGES, CHINESE, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        assert (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"


def test_the_readme_counts_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    own = [name for name in data.entries() if data.entries()[name].module == "data.torchvision_sets"]
    assert f"{len(own)} sets of torchvision" in text
