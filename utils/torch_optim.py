"""torch's optimizers by name, read from torch's files: importing torch takes seconds."""

import ast
import functools
import importlib.util
import re
from pathlib import Path

from utils import registry

UNFIT = ("SparseAdam",)  # takes sparse gradients only


@functools.cache
def _files() -> dict[str, Path]:
    """{class name: its file in torch/optim}; empty where torch is not installed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    derived = re.compile(r"^class ([A-Z]\w*)\((?:Optimizer|Adam)\):", re.MULTILINE)
    files = sorted((Path(spec.origin).parent / "optim").glob("*.py"))
    found = {name: file for file in files for name in derived.findall(file.read_text(encoding="utf-8"))}
    return {name: file for name, file in sorted(found.items()) if name not in UNFIT}


def names() -> list[str]:
    """The optimizers of torch.optim that take a learning rate."""
    return list(_files())


def find(name: str) -> str:
    """The optimizer that the user means by `name`; raises UsageError with the known names where there is none."""
    if registry.is_external(name):
        registry.external(name, "optimizer")
        return name
    return registry.find(name, names(), "optimizer")


@functools.cache
def parameters(name: str) -> tuple[str, ...] | None:
    """The arguments of an optimizer's class; None where they are not known (an external one)."""
    if registry.is_external(name):
        return registry.external(name, "optimizer").parameters
    tree = ast.parse(_files()[name].read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    return tuple(a.arg for a in [*init.args.args[1:], *init.args.kwonlyargs])
