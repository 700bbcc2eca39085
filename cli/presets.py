"""Presets: YAML files of options, by name from configs/ or by path. Every value stays the text that was typed.

YAML's own guesses (1e-3 is text, `no` is False, 012 is ten) never happen: the option's type decides, in config.py.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UsageError
from utils.options import option_name
from utils.registry import find

FOLDER = Path(__file__).resolve().parent.parent / "configs"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str | Path, _seen: tuple[Path, ...] = ()) -> dict[str, tuple[Any, str]]:
    """The preset's options as {option: (text, "file, line N")}, those of its `base:` preset first.

    A value may be one mapping or list of scalars deep: then it is a dict or a list of texts.

    Raises:
        UsageError: no such preset, broken YAML, a duplicate key, a value of another kind, presets in a circle.
    """
    path = locate(name)
    if path.resolve() in _seen:
        raise UsageError(f"{path}: its base leads back to itself")
    values: dict[str, tuple[Any, str]] = {}
    for key, value in _pairs(path):
        place = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{place}: expected one `option: value` a line")
        name = option_name(key.value) if key.value.isidentifier() else key.value
        if name in values:
            raise UsageError(f"{place}: {key.value} is given a second time ({values[name][1]})")
        values[name] = (_text(value, place), place)
    if "base" in values:
        base, place = values.pop("base")
        if not isinstance(base, str) or not base:
            raise UsageError(f"{place}: base takes one preset, a name or a path, not {base!r}")
        beside = path.parent / base
        try:
            return read(beside if os.path.isfile(beside) else base, (*_seen, path.resolve())) | values
        except UsageError as e:
            raise UsageError(str(e) if str(path.parent) in str(e) else f"{place}: base: {e}") from None
    return values


def locate(name: str | Path) -> Path:
    """The file of a preset, given by its path or by its name in configs/."""
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UsageError(f"no preset file {path}: give a path, or a name of configs/ ({', '.join(names())})")
    return FOLDER / f"{find(str(name), names(), 'preset')}.yaml"


def header(path: Path) -> str:
    """The first comment line of a preset: what it is for."""
    try:
        text = path.read_text(encoding="utf-8", errors="backslashreplace")
    except OSError as e:
        return f"cannot be read: {e.strerror}"
    lines = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("yaml-language-server")), "")


def _text(value: yaml.Node, place: str) -> Any:
    """The text of a scalar; of a mapping or a list of scalars all texts."""
    nodes = [value]
    if isinstance(value, yaml.MappingNode):
        nodes = [node for pair in value.value for node in pair]
    elif isinstance(value, yaml.SequenceNode):
        nodes = value.value
    if not all(isinstance(node, yaml.ScalarNode) for node in nodes):
        raise UsageError(
            f"{place}: expected `option: value`, where a value is text, a number, or one list or mapping of these"
        )
    if isinstance(value, yaml.MappingNode):
        texts = {key.value: node.value for key, node in value.value}
        if len(texts) < len(value.value):
            raise UsageError(f"{place}: a name is given twice in one mapping")
        return texts
    return [node.value for node in nodes] if isinstance(value, yaml.SequenceNode) else value.value


def _pairs(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise UsageError(f"{path}{line}: broken YAML: {e.problem}") from e
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as e:
        raise UsageError(f"{path}: cannot be read as YAML: {str(e).splitlines()[0]}") from e
    except RecursionError as e:
        raise UsageError(f"{path}: cannot be read as YAML: it is nested too deeply") from e
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}, line {root.start_mark.line + 1}: expected one `option: value` a line")
    return root.value
