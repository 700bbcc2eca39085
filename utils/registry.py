"""Names of models, data sets, tasks, ..., known before anything heavy is imported.

A folder's classes are found by reading its files (`ast`), not by importing them: help comes at once, and so does the
refusal of a mistyped name. Adding one is adding a file with a class that derives from the base. Code outside of the
repository is named `path/to/file.py:Name` or `package.module:Name`, and is imported by `load` only.
"""

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UsageError, nearest

LISTED = 12  # names that an error message spells out; the rest are counted


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


def scan(folder: str | Path, base: str, package: str = "") -> dict[str, Entry]:
    """The classes of a package folder that derive from `base`, directly or through others of the folder.

    Reads the top-level classes of `*.py` and of the sub-packages' `__init__.py`. A file with a leading "_" is not
    read; a class with one is not registered, but others may derive through it.

    Args:
        package: the folder's dotted name; by default the name of the folder.

    Returns:
        {class name: Entry}, sorted by name.

    Raises:
        ValueError: two files define the same name (names both files).
    """
    folder = Path(folder)
    package = package or folder.name
    files = {path: path.stem for path in folder.glob("[!_]*.py")}
    files |= {path: path.parent.name for path in folder.glob("*/__init__.py")}
    classes = [entry for path in sorted(files) for entry in _classes(path, f"{package}.{files[path]}")]
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


def functions(path: str | Path, module: str) -> dict[str, Entry]:
    """{name: Entry} of the public top-level functions of one file, in its order."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"), filename=str(path))
    nodes = (node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))
    return {node.name: _entry(node, module, Path(path), {}) for node in nodes}


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


# ---- outside of the repository

_objects: dict[str, Any] = {}  # what was given in Python, by the name under which the options hold it
_modules: dict[Path, Any] = {}  # the user's files that have been imported


def is_external(name: object) -> bool:
    """Whether `name` means code outside of the repository: `file.py:Name`, `package.module:Name`."""
    return isinstance(name, str) and ":" in name


def register(target: Any) -> str:
    """The external name of a class, function or instance that is given in Python; `load` then returns it.

    A later one of the same name takes the place of the one before.
    """
    named = target if inspect.isclass(target) or inspect.isfunction(target) else type(target)
    name = f"{named.__module__}:{named.__qualname__}"
    _objects[name] = target
    return name


def given(name: str) -> bool:
    """Whether `name` is that of an object given in Python."""
    return name in _objects


def external(name: str, what: str) -> Entry:
    """Reads what `file.py:Name` or `package.module:Name` means, without running the file.

    Args:
        what: what it should be, in the singular: "model", "data set".

    Raises:
        UsageError: no such file or module, broken Python, or no such class or function in it.
    """
    if name in _objects:
        return _entry_of_object(name)
    left, path = _locate(name, what)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError, OSError) as e:
        line = f", line {e.lineno}" if isinstance(e, SyntaxError) and e.lineno else ""
        raise UsageError(f"{path}{line}: cannot be read as Python: {getattr(e, 'msg', e)}") from e
    wanted, definitions, named = name.rpartition(":")[2], {}, {}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            definitions[node.name] = _entry(node, left, path, named)
            named[node.name] = definitions[node.name]
    if wanted in definitions:
        return definitions[wanted]
    if wanted and any(wanted in _names_bound(node) for node in tree.body):  # imported, or made by a call
        return Entry(wanted, left, path, "", (), {}, None)
    listed = ", ".join([n for n in definitions if not n.startswith("_")][:LISTED]) or "nothing"
    problem = f"{left} defines no {wanted!r}" if wanted else f"{name} names no {what}"
    raise UsageError(f"{problem}: it defines {listed}; type {left}:NAME.{nearest(wanted, definitions)}")


def load(name: str, what: str) -> Any:
    """The class, function or object that the external `name` means. Imports its file: runs code of the user's.

    Raises:
        UsageError: no such file, module or name in it. What the file itself raises keeps its traceback.
    """
    if name in _objects:
        return _objects[name]
    entry = external(name, what)
    if _is_file(entry.module):
        module = _import_file(Path(entry.module).expanduser().resolve())
    else:
        module = importlib.import_module(entry.module)
    return getattr(module, entry.name)


def _is_file(left: str) -> bool:
    return left.endswith(".py") or "/" in left or os.sep in left


def _locate(name: str, what: str) -> tuple[str, Path]:
    """What stands before the colon, and the file that it means."""
    left = name.rpartition(":")[0]
    if _is_file(left):
        path = Path(left).expanduser()
        if not path.is_file():
            raise UsageError(f"no file {path} for the {what} {name!r}: type path/to/file.py:NAME")
        return left, path
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        spec = importlib.util.find_spec(left)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise UsageError(
            f"no Python module {left!r} for the {what} {name!r}: type path/to/file.py:NAME or package.module:NAME"
        )
    return left, Path(spec.origin)


def _import_file(path: Path) -> Any:
    if path not in _modules:
        name = f"{path.stem}_{len(_modules)}_of_the_user"  # so that it hides no module of ours
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # what lies beside it can be imported
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _modules[path] = module
    return _modules[path]


def _entry_of_object(name: str) -> Entry:
    target = _objects[name]
    cls = target if inspect.isclass(target) or inspect.isfunction(target) else type(target)
    constants = {k: v for k in dir(cls) if not k.startswith("_") for v in [inspect.getattr_static(cls, k)]}
    constants = {k: v for k, v in constants.items() if isinstance(v, (str, int, float, bool, tuple, list, type(None)))}
    module, _, short = name.rpartition(":")
    try:
        path = Path(inspect.getfile(cls))
    except (TypeError, OSError):
        path = None
    bases = tuple(base.__name__ for base in getattr(cls, "__mro__", ())[1:])
    return Entry(short, module, path, inspect.getdoc(cls) or "", bases, constants, _signature(target))


def _signature(target: Any) -> tuple[str, ...] | None:
    """The arguments of a class or function; None where they cannot be known, or may be any."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return tuple(parameters)


# ---- reading files


def _ancestors(entry: Entry, named: Mapping[str, Entry]) -> list[str]:
    """The names of its bases that are known, and of theirs; the nearest first."""
    named = {name: other for name, other in named.items() if name != entry.name}  # a base elsewhere of the same name
    known = [b for b in entry.bases if b in named]
    return known + [name for b in known for name in _ancestors(named[b], named)]


def _classes(path: Path, module: str) -> list[Entry]:
    """Every top-level class of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    named: dict[str, Entry] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            named[node.name] = _entry(node, module, path, named)
    return list(named.values())


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
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and n.value is not None:
                try:
                    constants[target.id] = ast.literal_eval(n.value)
                except ValueError:  # no literal
                    continue
    return constants


def _names_bound(node: ast.stmt) -> set[str]:
    """The names that a top-level statement defines other than by `class` and `def`."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
