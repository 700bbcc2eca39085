"""The classes and functions of Python files, read with `ast`: nothing is imported."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One class or function that can be asked for by name.

    Attributes:
        name: what the user types.
        module: what to import, e.g. "models.resnet34"; of an external one what stands before the colon.
        path: its file; None for an object that was given in Python and has none.
        docstring: cleaned, "" where there is none.
        bases: names of its base classes as written, without their modules; () for a function.
        constants: attributes that the class body sets to a literal, with those of its bases in the folder.
        parameters: names of the arguments that it is called with; None where they are not known, or are any.
    """

    name: str
    module: str
    path: Path | None
    docstring: str
    bases: tuple[str, ...]
    constants: dict[str, Any]
    parameters: tuple[str, ...] | None


def parse(path: str | Path) -> ast.Module:
    """The syntax tree of a file, in the encoding that it names; raises SyntaxError, ValueError or OSError."""
    return ast.parse(Path(path).read_bytes(), filename=str(path))


def read(tree: ast.Module, module: str, path: Path) -> dict[str, Entry]:
    """{name: Entry} of the top-level classes and functions of one file, also under `if` and `try`."""
    found: dict[str, Entry] = {}
    for node in _top_level(tree.body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = _entry(node, module, path, found)
    return found


def ancestors(entry: Entry, named: Mapping[str, Entry]) -> list[str]:
    """The names of its bases that are known, and of theirs; the nearest first."""
    named = {name: other for name, other in named.items() if name != entry.name}  # a base elsewhere of the same name
    known = [b for b in entry.bases if b in named]
    return known + [name for b in known for name in ancestors(named[b], named)]


def all_bases(entry: Entry, named: Mapping[str, Entry]) -> tuple[str, ...]:
    """The bases of a class, and those of its bases in the same file."""
    others = {name: other for name, other in named.items() if name != entry.name}
    further = [b for base in entry.bases if base in others for b in all_bases(others[base], others)]
    return tuple(dict.fromkeys([*entry.bases, *further]))


def _entry(node: ast.ClassDef | ast.FunctionDef, module: str, path: Path, before: Mapping[str, Entry]) -> Entry:
    """The entry of a definition; a class takes constants and parameters over from bases that stand `before` it."""
    docstring = ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef):
        return Entry(node.name, module, path, docstring, (), {}, _parameters(node, first=0))
    bases = tuple(ast.unparse(b).rpartition(".")[2] for b in node.bases)
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    parent = next((before[b] for b in bases if b in before), None)
    parameters = _parameters(init, first=1) if init else parent.parameters if parent else None
    constants = (parent.constants if parent else {}) | _constants(node)
    return Entry(node.name, module, path, docstring, bases, constants, parameters)


def _parameters(node: ast.FunctionDef, first: int) -> tuple[str, ...] | None:
    if node.args.kwarg:
        return None
    return tuple(a.arg for a in [*node.args.posonlyargs, *node.args.args][first:] + node.args.kwonlyargs)


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    """What the class body sets to a literal, with or without an annotation."""
    constants = {}
    for n in node.body:
        if not isinstance(n, (ast.Assign, ast.AnnAssign)) or n.value is None:
            continue
        for target in n.targets if isinstance(n, ast.Assign) else [n.target]:
            if isinstance(target, ast.Name):
                with suppress(ValueError, TypeError):  # not a literal
                    constants[target.id] = ast.literal_eval(n.value)
    return constants


def _top_level(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Every node that runs when the file is imported: all but what stands inside classes and functions."""
    for node in body:
        yield node
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _top_level(ast.iter_child_nodes(node))


def names_bound(body: Iterable[ast.stmt]) -> set[str]:
    """The names that a file binds other than by `class` and `def`; "*" stands for what it imports by `import *`."""
    names: set[str] = set()
    for node in _top_level(body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names
