"""What README and docs say is so: files and commands are run as they stand, links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import results
import torch
from conftest import ROOT, resolve_any
from torchvision.models import resnet18

import data
import main
from analysis import bench
from cli import parsing, presets
from cli.resolve import resolve
from config import Config
from data.demo import drawing
from export.graph import TORCH

README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, CHINESE, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
LINE = r"^ *\$? *(python main\.py .*?)(?: +#.*)?$"

# What keeps a command short, in place of its own flags.
SHORT = {"max_epoch": "1", "image_size": "32", "batch_size": "8", "num_workers": "0", "vis_port": "None"}
SHORT |= {"use_gpu": "false", "amp": "off", "threads": "1", "model": "SqueezeNet"}
LARGE = {"model=ResNet34", "model=resnet50"}  # such nets become the model of SHORT, as that of the preset demo does
SHORT_GAN = {"image_size": "96", "nz": "8", "ngf": "4", "ndf": "4"}


@pytest.mark.parametrize("name", presets.names())
@pytest.mark.parametrize("page", [README, CHINESE], ids=lambda page: page.name)
def test_the_table_of_presets_says_what_their_headers_say(name, page):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", read(page), re.MULTILINE)
    *_, minutes, reached, _ = [cell.strip() for cell in row.split("|")]
    header = results.header(name)
    assert header["Time"].startswith(minutes), (row, header)
    figures = r"\d+(?:\.\d+)?"
    seeds = re.sub(r"[(（][^)）]*[)）]", "", reached)  # the figures themselves, not what is said of them
    assert re.findall(figures, seeds) == re.findall(figures, header["Result"])[: len(re.findall(figures, seeds))], row


@pytest.mark.slow
def test_results_are_repeated_and_a_finished_run_is_not(tmp_path, capsys, monkeypatch):
    flags = ["--image-size=32", "--num-workers=0", "--use-gpu=false", "--amp=off"]
    once = results._run("demo", 0, flags, tmp_path, quick=True)
    assert once["seconds"] > 0 and once["mib"] > 50 and 0 <= once["metrics"]["accuracy"] <= 1
    before = (tmp_path / "demo_0" / "last.pth").stat().st_mtime_ns
    assert results._run("demo", 0, flags, tmp_path, quick=True) == once
    assert (tmp_path / "demo_0" / "last.pth").stat().st_mtime_ns == before
    assert "error" in results._run("demo", 1, ["--no-such-flag=1"], tmp_path, quick=True)
    runs = [{"metrics": {"accuracy": value}} for value in (0.5, 0.6, 0.7)]
    assert results._figures(runs) == "60.00% ± 0.1"
    results.main(str(tmp_path / "none"), str(tmp_path / "out"), quick=True, names="mnist,anime")
    table = (tmp_path / "out" / "quick" / "table.md").read_text()
    assert table.count("left out: no ") == 2 and "One epoch and one seed each" in table


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """The commands `python main.py ...` of a text: lines of their own, also behind a `$`, then those in backticks."""
    found = [*re.findall(LINE, text, re.MULTILINE), *re.findall(r"`(python main\.py [^`]+)`", text)]
    return [line for line in found if "..." not in line]


def refusals(text: str) -> list[tuple[str, str]]:
    """(command, answer): the commands that are shown with the line that refuses them."""
    return re.findall(r"^ *\$ (python main\.py .*)\n +(main\.py: .*)$", text, re.MULTILINE)


def runnable(text: str) -> list[str]:
    """The commands of a text but those that are refused, and those of one measured run, whose folder is named.

    Several processes are tested in test_together.py.
    """
    refused, others = {line for line, _ in refusals(text)}, ("checkpoints/", "/shared/", "--processes")
    return [line for line in commands(text) if line not in refused and not any(word in line for word in others)]


def write_files(text: str, folder: Path) -> None:
    """Writes the blocks of a text whose first line is a comment with a file's name."""
    for name, content in re.findall(r"```\w+\n# (\w+\.(?:py|yaml))\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(content, encoding="utf-8")


def shortened(line: str) -> list[str]:
    """The words behind `main.py`, with the flags of SHORT that the command takes."""
    command, *flags = shlex.split(line)[2:]
    if command in ("help", "generate", "summary", "runs", "report", "replay"):
        return [command, *flags]
    if command == "sweep":
        fewer = [flag for flag in flags if not flag.startswith(("--trials", "--parallel"))]
        if "--resume" in line:
            return [command, *fewer, "--trials=3"]
        return [command, *shortened(f"python main.py train {shlex.join(fewer)}")[1:], "--trials=2"]
    short = {"num_workers": "0"}
    if "--resume" in line:
        short = {"max_epoch": "2"}
    elif command not in ("val", "test", "predict", "export", "explain", "features"):
        short = SHORT | (SHORT_GAN if "anime" in line.lower() else {})
        short = {name: value for name, value in short.items() if command in Config.commands_of(name)}
        if not LARGE & {flag.strip("-") for flag in flags} and re.search("--(model|pretrained|config=(?!demo))", line):
            del short["model"]
    kept = [flag for flag in flags if flag.partition("=")[0].strip("-").replace("-", "_") not in short]
    return [command, *kept, *(f"--{name}={value}" for name, value in short.items())]


def chapters() -> dict[str, str]:
    """{title: text} of extending.md."""
    parts = re.split(r"^## (.*)$", read(ROOT / "docs" / "extending.md"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder in Kaggle's layout, with few images."""
    root = tmp_path_factory.mktemp("docs") / "demo"
    drawing.write(root, train_per_class=8, test=4)
    return root


@pytest.fixture
def reader(images, tmp_path, monkeypatch) -> Path:
    """A reader's current folder: images where the docs expect them, in `DIR` one folder for each class, the files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name, target in {"demo": images, "train": images / "train", "test1": images / "test1"}.items():
        (tmp_path / "data" / name).symlink_to(target)
    for path in (images / "train").iterdir():
        link = tmp_path / "DIR" / path.name.split(".")[0] / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    for page in (README, *DOCS):
        write_files(read(page), tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title, text in chapters().items() if runnable(text)])
def test_each_chapter_of_extending_runs_as_it_stands(title, reader, command):
    if title == "A tracker":
        pytest.importorskip("mlflow", reason="mlflow is not installed")
    for line in runnable(chapters()[title]):
        code, out, err = command(*shortened(line))
        assert code == 0, f"{line}\n{err}"
        assert out
    if title == "A sink":
        (csv,) = reader.glob("checkpoints/*/epochs.csv")
        assert [line.split(",")[0] for line in csv.read_text().splitlines()] == ["1", "2"]
    if title == "A metric":
        (record,) = reader.glob("checkpoints/*/metrics.jsonl")
        assert '"val_worst_class"' in record.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_docs_compiles(page):
    for block in re.findall(r"```python\n(.*?)```", read(page), re.DOTALL):
        compile(block, page.name, "exec")


@pytest.mark.slow
def test_the_script_of_extending_runs_as_it_stands(reader):
    assert "    python script.py\n" in chapters()["In Python"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "script.py"], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "--model=__main__" not in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in (README, *DOCS) if p.stem != "extending"], ids=lambda page: page.name)
def test_the_commands_run_in_their_order(page, reader, command, monkeypatch):
    if page.stem == "export" and tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        pytest.skip("export needs a newer torch")
    monkeypatch.setattr(bench, "ROUNDS", 1)
    torch.save(resnet18().state_dict(), "resnet18.pth")  # what --pretrained takes without internet
    for block in re.findall(r"```python\n(?!# \w+\.py\n)(.*?)```", read(page), re.DOTALL):
        short = ", ".join(f"{name}={value!r}" for name, value in SHORT.items() if f"{name}=" not in block)
        exec(compile(block.replace('train(config="demo"', f'train(config="demo", {short}'), page.name, "exec"), {})
    for line in runnable(read(page)):
        words = shortened(line)
        if "--pretrained" in words:
            words.append("--load-path=resnet18.pth")
        code, out, err = command(*words)
        assert code == 0, f"{line}\n{err}"
        assert out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(read(page), tmp_path)
    refused = {line for line, _ in refusals(read(page))}
    for line in [line for line in commands(read(page)) if line not in refused]:
        command, _, flags = parsing.parse(shlex.split(line)[2:], main.COMMANDS)
        own = {name for name, value in flags.items() if ".py:" in value}
        for name in own:
            assert command in Config.commands_of(name), line
        resolve_any(command, {name: value for name, value in flags.items() if name not in own})


def test_make_has_the_targets_that_are_named():
    targets = re.findall(r"^(\w[\w-]*):", read(ROOT / "Makefile"), re.MULTILINE)
    for page in PAGES:
        assert set(re.findall(r"(?:^ {4}|`)make (\w[\w-]*)", read(page), re.MULTILINE)) <= set(targets), page.name


def test_the_mistakes_of_the_readme_are_answered_as_it_says(command):
    assert len(refusals(read(README))) >= 4
    for line, answer in refusals(read(README)):
        assert command(*shlex.split(line)[2:]) == (2, "", answer + "\n")


def test_the_presets_name_their_command():
    for name in presets.names():
        for line in commands(read(presets.locate(name)).replace("# Command: ", "")):
            command, _, flags = parsing.parse(shlex.split(line)[2:], main.COMMANDS)
            assert resolve(command, flags)


def test_both_readmes_say_the_same():
    english, chinese = read(README), read(CHINESE)
    assert len(english.splitlines()) <= 200
    for pattern in (r"^#+ ", r"^\|"):
        assert len(re.findall(pattern, english, re.MULTILINE)) == len(re.findall(pattern, chinese, re.MULTILINE))
    for pattern in (r"^ {4}.*$", r"^```python$[\s\S]*?^```$"):  # commands and their output; code
        found = [re.findall(pattern, text, re.MULTILINE) for text in (english, chinese)]
        code = [[re.sub(r" +#.*", "", block) for block in blocks] for blocks in found]
        assert code[0] and code[0] == code[1]
    names = [set(re.findall(r"`[^`\n]+`", text)) for text in (english, chinese)]
    assert names[0] == names[1]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    titles = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        file, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / file if file else page
            assert target.exists() and (not anchor or anchor in anchors(target)), f"{page.name}: {link}"


def test_the_readme_counts_right():
    own = [name for name in data.entries() if data.entries()[name].module == "data.torchvision_sets"]
    assert f"{len(own)} sets of torchvision" in read(README)
