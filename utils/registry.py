"""Names of models, data sets and presets, known before anything heavy is imported.

A folder's classes are found by reading its files (`ast`), not by importing them: help comes at once, and so
does the refusal of a mistyped name. Registering is adding one file with a class that derives from the base.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UsageError, nearest

LISTED = 12  # names that an error message spells out; the rest are counted


@dataclass(frozen=True)
class Entry:
    """One registered class."""

    name: str  # class name: what the user types
    module: str  # what to import, e.g. "models.resnet34"
    path: Path  # its file
    docstring: str  # cleaned, "" where there is none
    bases: tuple[str, ...]  # names of its base classes as written, without their modules
    constants: dict[str, Any]  # what its body sets to a literal, and those of its bases in the folder


def scan(folder: str | Path, base: str) -> dict[str, Entry]:
    """The classes of a package folder that derive from `base`, directly or through others of the folder.

    Looks at the top-level classes of `*.py`. A file with a leading "_" is not read; a class with one is not
    registered, but others may derive through it.

    Returns:
        {class name: Entry}, sorted by name.

    Raises:
        ValueError: two files define the same name (names both files).
    """
    folder = Path(folder)
    classes = [
        entry
        for path in sorted(folder.glob("*.py"))
        if not path.name.startswith("_")
        for entry in _classes(path, f"{folder.name}.{path.stem}")
    ]
    named = {c.name: c for c in classes}
    for c in classes:
        for other in (named[b] for b in _ancestors(c, named)):
            c.constants.update({k: v for k, v in other.constants.items() if k not in c.constants})
    derived, size = {base}, 0
    while len(derived) > size:  # each round finds the children of the round before
        size = len(derived)
        derived |= {c.name for c in classes if derived.intersection(c.bases)}
    found: dict[str, Entry] = {}
    for entry in classes:
        if entry.name.startswith("_") or entry.name == base or not derived.intersection(entry.bases):
            continue
        if entry.name in found:
            raise ValueError(f"{entry.name} is defined twice: in {found[entry.name].path} and {entry.path}")
        found[entry.name] = entry
    return dict(sorted(found.items()))


def _ancestors(entry: Entry, named: Mapping[str, Entry]) -> list[str]:
    """The names of its bases that are known, and of theirs; the nearest first."""
    named = {name: other for name, other in named.items() if name != entry.name}  # a base elsewhere of the same name
    known = [b for b in entry.bases if b in named]
    return known + [name for b in known for name in _ancestors(named[b], named)]


def _classes(path: Path, module: str) -> list[Entry]:
    """Every top-level class of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [
        Entry(
            name=node.name,
            module=module,
            path=path,
            docstring=ast.get_docstring(node) or "",
            bases=tuple(ast.unparse(b).rpartition(".")[2] for b in node.bases),
            constants=_constants(node),
        )
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    ]


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    simple = [n for n in node.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)]
    return {target.id: n.value.value for n in simple for target in n.targets if isinstance(target, ast.Name)}


def find(name: str, known: Iterable[str], what: str, more: Mapping[str, Iterable[str]] | None = None) -> str:
    """The registered name that the user means: the exact one, else the only one that differs by case.

    Args:
        name: what the user typed.
        known: the names to list in an error.
        what: what they are, in the singular: "model", "data set", "preset".
        more: further valid names by where they come from, counted in an error and not listed:
            {"torchvision": [...]}.

    Raises:
        UsageError: no such name, or several that differ by case only; lists the names and the nearest.
    """
    known, more = list(known), {k: list(v) for k, v in (more or {}).items()}
    names = known + [n for group in more.values() for n in group]
    if name in names:
        return name
    alike = [n for n in names if n.lower() == str(name).lower()]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UsageError(f"{what} {name!r} may be {' or '.join(alike)}: type the one you mean")
    listed = ", ".join(known[:LISTED]) + (f", ... ({len(known)} in all)" if len(known) > LISTED else "")
    counted = "".join(f" (and {len(v)} of {k})" for k, v in more.items() if v)
    hint = nearest(str(name), names)
    raise UsageError(f"unknown {what} {name!r}: the {what}s are {listed or 'none'}{counted}.{hint}")
