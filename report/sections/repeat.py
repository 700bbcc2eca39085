"""How to repeat it: the command, the versions, the machine, the data, the options to copy."""

import shlex
from typing import Any

import yaml

from report import words
from report.html import Markup, details, join, paragraph, table, tag
from report.subject import Subject
from runs.history import History
from utils.text import without_home

TITLE = "How to repeat it"
MOST_RUNS = 8  # side by side, and with their options to copy


def build(subject: Subject) -> Markup:
    runs = subject.histories[:MOST_RUNS]
    every = [_facts(run) for run in runs]
    names = dict.fromkeys(name for facts in every for name in facts)
    known = [name for name in names if any(facts.get(name) for facts in every)]
    head = ["", *(run.name for run in runs)] if len(runs) > 1 else ["what", "of this run"]
    rows = [[name, *(facts.get(name) or "not recorded" for facts in every)] for name in known]
    parts = [tag("pre", tag("code", "\n".join(_command(run) for run in runs)))]
    parts += [paragraph("This takes the options of the run folder; its data must be where it was."), table(head, rows)]
    if len(subject.histories) > len(runs):
        parts.append(paragraph(f"{len(subject.histories) - len(runs)} more runs are left out.", "note"))
    return join([*parts, *(details(f"Options of {run.name} as YAML", tag("pre", _options(run))) for run in runs)])


def _command(run: History) -> str:
    return f"python main.py train --config={shlex.quote(without_home(f'{run.folder}/config.yaml'))}"


def _options(run: History) -> str:
    shown = {name: without_home(v) if isinstance(v, str) else v for name, v in run.options.items()}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _facts(run: History) -> dict[str, Any]:
    start = run.start
    machine, images = (start[k] if isinstance(start.get(k), dict) else {} for k in ("machine", "images"))
    memory = start.get("memory")
    command = start.get("command")
    return {
        "command": tag("code", command) if command else None,
        "seed": words.option(run.option("seed")),
        "program": _program(start.get("program")),
        "Python": start.get("python"),
        "PyTorch": machine.get("torch"),
        "torchvision": start.get("torchvision"),
        "system": start.get("platform"),
        "processor": start.get("cpu"),
        "cores": start.get("cores"),
        "memory": f"{memory / 2**30:.1f} GiB" if isinstance(memory, int) else None,
        "device": machine.get("device"),
        "number format": machine.get("numbers"),
        "threads": machine.get("threads"),
        "training images": images.get("train"),
        "their fingerprint": _short(images.get("train_files")),
        "validation images": images.get("val"),
        "their fingerprint ": _short(images.get("val_files")),
    }


def _program(found: Any) -> str | None:
    """The git commit of the program."""
    if not isinstance(found, dict) or not found.get("commit"):
        return None
    clean = "" if found.get("clean") else ", with changes that were not committed"
    return f"commit {str(found['commit'])[:12]}{clean}"


def _short(fingerprint: Any) -> Markup | None:
    return tag("code", str(fingerprint)[:16], title=fingerprint) if fingerprint else None
