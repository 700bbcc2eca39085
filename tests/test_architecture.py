"""The floors of docs/architecture.md: each folder imports only from the floors below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# from the ground up
FLOORS = [
    ["utils"],
    ["data", "models"],
    ["config"],
    ["cli", "runs"],
    ["engine"],
    ["analysis", "export", "sweeps"],
    ["report"],
]
FLOORS += [["commands"], ["main"]]
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
FILES = [
    path for name in HEIGHT for path in [ROOT / f"{name}.py", *sorted((ROOT / name).rglob("*.py"))] if path.is_file()
]


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports anywhere in it, also for types only."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_down(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported(path) & HEIGHT.keys() - {own}:
        assert HEIGHT[name] < HEIGHT[own], f"{path.relative_to(ROOT)} imports {name}"


def test_every_folder_has_its_floor():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders | {path.stem for path in ROOT.glob("*.py")} == HEIGHT.keys()


def test_commands_are_known_before_torch_is():
    """Importing the commands, their options and all names imports nothing heavy."""
    modules = ["main", "config", "data", "models", "utils.registry", "utils.checkpoints"]
    modules += [f"cli.{path.stem}" for path in (ROOT / "cli").glob("[!_]*.py")]
    script = f"import sys, {', '.join(modules)}; models.names(); data.entries();"
    script += "print({'torch', 'torchvision', 'timm', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
