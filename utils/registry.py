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
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from utils import definitions
from utils.definitions import Entry
from utils.errors import UsageError, nearest

LISTED = 12  # names that an error message spells out; the rest are counted

_broken: dict[Path, list[str]] = {}  # by folder, what its last scan left out, a line each


def scan(folder: str | Path, base: str, package: str = "") -> dict[str, Entry]:
    """The classes of a package folder that derive from `base`, directly or through others of the folder.

    Reads the top-level classes of `*.py` and of the sub-packages' `__init__.py`. A file with a leading "_" is not
    read; a class with one is not registered, but others may derive through it. What is broken costs nothing else: a
    file that is no Python, and a name that two files define, are left out, and `broken` tells of them.

    Args:
        package: the folder's dotted name; by default the name of the folder.

    Returns:
        {class name: Entry}, sorted by name.
    """
    folder = Path(folder)
    package = package or folder.name
    modules = {path: path.stem for path in folder.glob("[!_]*.py")}
    modules |= {path: path.parent.name for path in folder.glob("*/__init__.py")}
    classes: list[Entry] = []
    problems = _broken[folder] = []
    for path in sorted(modules):
        try:
            classes += definitions.read(_parse(path), f"{package}.{modules[path]}", path).values()
        except UsageError as e:
            problems.append(str(e))
    named = {c.name: c for c in classes}
    for c in classes:
        for other in (named[b] for b in definitions.ancestors(c, named)):
            c.constants.update({k: v for k, v in other.constants.items() if k not in c.constants})
    derived, size = {base}, 0
    while len(derived) > size:  # each round finds the children of the round before
        size = len(derived)
        derived |= {c.name for c in classes if derived.intersection(c.bases)}
    found: dict[str, list[Entry]] = {}
    for entry in classes:
        if not entry.name.startswith("_") and entry.name != base and derived.intersection(entry.bases):
            found.setdefault(entry.name, []).append(entry)
    for name, twins in found.items():
        if len(twins) > 1:
            problems.append(f"{name} is defined twice, in {twins[0].path} and {twins[1].path}: rename one")
    return {name: twins[0] for name, twins in sorted(found.items()) if len(twins) == 1}


def broken(folder: str | Path) -> list[str]:
    """What the last `scan` of the folder left out, a line each."""
    return _broken.get(Path(folder), [])


def left_out(folder: str | Path) -> str:
    """The same as a clause of an error about a name that was not found; "" where nothing is broken."""
    return "".join(f" Left out: {line}." for line in broken(folder))


def functions(path: str | Path, module: str) -> dict[str, Entry]:
    """{name: Entry} of the public top-level functions of one file, in its order.

    Raises:
        UsageError: the file is no Python.
    """
    path = Path(path)
    tree = _parse(path)
    public = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
    return {name: entry for name, entry in definitions.read(tree, module, path).items() if name in public}


def _parse(path: Path) -> ast.Module:
    """The syntax tree of a file; raises UsageError where it is no Python, or cannot be read."""
    try:
        return definitions.parse(path)
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as e:  # the last two: nested too deep
        line = f", line {e.lineno}" if isinstance(e, SyntaxError) and e.lineno else ""
        raise UsageError(f"{path}{line}: cannot be read as Python: {getattr(e, 'msg', e)}") from e


def find(
    name: str,
    known: Iterable[str],
    what: str,
    more: Mapping[str, Iterable[str]] | None = None,
    folder: str | Path = "",
) -> str:
    """The registered name that the user means: the exact one, else the only one that differs by case.

    Args:
        name: what the user typed.
        known: the names to list in an error.
        what: what they are, in the singular: "model", "data set", "preset".
        more: further valid names by where they come from, counted in an error and not listed:
            {"torchvision": [...]}.
        folder: where the known ones were found by `scan`; an error tells what is broken there.

    Raises:
        UsageError: no such name, or several that differ by case only; lists the names and the nearest.
    """
    listed, others = list(known), {k: list(v) for k, v in (more or {}).items()}
    names = listed + [n for group in others.values() for n in group]
    if name in names:
        return name
    alike = [n for n in names if n.lower() == str(name).lower()]
    if len(alike) == 1 and (alike[0] in listed or not broken(folder)):  # else the exact one may be in a broken file
        return alike[0]
    if len(alike) > 1:
        raise UsageError(f"{what} {name!r} may be {' or '.join(alike)}: type the one you mean")
    text = ", ".join(listed[:LISTED]) + (f", ... ({len(listed)} in all)" if len(listed) > LISTED else "")
    counted = ", ".join(f"{len(v)} of {k}" for k, v in others.items() if v)
    text += f" (and {counted})" if counted else ""
    hint = nearest(str(name), names)
    raise UsageError(f"unknown {what} {name!r}: the {what}s are {text or 'none'}.{hint}{left_out(folder)}")


# ---- outside of the repository

_objects: dict[str, Any] = {}  # what was given in Python, by the name under which the options hold it
_modules: dict[Path, Any] = {}  # the user's files that have been imported


def is_external(name: object) -> bool:
    """Whether `name` means code outside of the repository: `file.py:Name`, `package.module:Name`."""
    return isinstance(name, str) and ":" in name


def same(name: str, other: str) -> bool:
    """Whether two names mean the same; external code may lie in another place now."""
    if is_external(name) and is_external(other):
        return name.rpartition(":")[2] == other.rpartition(":")[2]
    return name == other


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
    tree = _parse(path)
    wanted, known = name.rpartition(":")[2], definitions.read(tree, left, path)
    if wanted in known:
        return replace(known[wanted], bases=definitions.all_bases(known[wanted], known))
    if wanted and definitions.names_bound(tree.body) & {wanted, "*"}:  # imported, or made by a call
        return Entry(wanted, left, path, "", (), {}, None)
    listed = ", ".join([n for n in known if not n.startswith("_")][:LISTED]) or "nothing"
    problem = f"{left} defines no {wanted!r}" if wanted else f"{name} names no {what}"
    raise UsageError(f"{problem}: it defines {listed}; type {left}:NAME.{nearest(wanted, known)}")


def load(name: str, what: str) -> Any:
    """The class, function or object that the external `name` means. Imports its file: runs code of the user's.

    Raises:
        UsageError: no such file, module or name in it. What the file itself raises keeps its traceback.
    """
    if name in _objects:
        return _objects[name]
    entry = external(name, what)
    if _is_file(entry.module):
        module = _import_file(Path(os.path.expanduser(entry.module)).resolve())
    else:
        module = importlib.import_module(entry.module)
    if not hasattr(module, entry.name):  # bound in a branch that was not taken, or not by `import *`
        raise UsageError(f"{name}: {entry.module} defines no {entry.name!r} once it has run")
    return getattr(module, entry.name)


def load_callable(name: str, what: str) -> Any:
    """`load`, for what is to be called.

    Raises:
        UsageError: it is neither a class nor a function, or `load` refuses it.
    """
    target = load(name, what)
    if not callable(target):
        raise UsageError(f"the {what} {name} is of type {type(target).__name__}: expected a class or a function")
    return target


def _is_file(left: str) -> bool:
    return left.endswith(".py") or "/" in left or os.sep in left


def _locate(name: str, what: str) -> tuple[str, Path]:
    """What stands before the colon, and the file that it means."""
    left = name.rpartition(":")[0]
    if _is_file(left):
        path = Path(os.path.expanduser(left))
        if path.suffix != ".py" or not os.path.isfile(path):
            problem = f"{path} does not end in .py" if os.path.isfile(path) else f"no file {path}"
            raise UsageError(f"{problem} for the {what} {name!r}: type path/to/file.py:NAME")
        return left, path
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    file = _module_file(left)
    if file is None:
        raise UsageError(
            f"no Python module {left!r} for the {what} {name!r}: type path/to/file.py:NAME or package.module:NAME"
        )
    return left, file


def _module_file(module: str) -> Path | None:
    """The file of `package.module`; unlike importlib's find_spec it does not import the packages on the way."""
    package, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
        for part in parts:
            package = f"{package}.{part}"
            spec = PathFinder.find_spec(package, spec and spec.submodule_search_locations or [])
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _import_file(path: Path) -> Any:
    if path not in _modules:
        name = f"{path.stem}_{len(_modules)}_of_the_user"  # so that it hides no module of ours
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None  # the name ends in .py
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
