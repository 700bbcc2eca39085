"""Where a training ran and with what: the part of the record that a report says how to repeat it from.

Nothing here names a person: no host, no user, no home folder. Each fact that cannot be had is None.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torchvision

from utils.text import without_home

ROOT = Path(__file__).resolve().parent.parent
GIT = ("git", "-c", "core.fsmonitor=false")
PATIENCE = 2  # seconds that git may take


def gather() -> dict[str, Any]:
    """The command, the versions and the machine.

    Returns:
        command: the words as typed, quoted for a shell; "in Python" where the program was called from there.
        program: git `commit` of the program's folder and whether it is `clean`; None without one.
        python, torchvision, platform, cpu: texts. cores: that this process may use. memory: bytes.
    """
    return {
        "command": command(),
        "program": program(ROOT),
        "python": platform.python_version(),
        "torchvision": torchvision.__version__.split("+")[0],
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory(),
    }


def command() -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not script or Path(script).resolve() != ROOT / "main.py":
        return "in Python"
    return shlex.join(["python", "main.py", *map(without_home, sys.argv[1:])])


def program(folder: Path) -> dict[str, Any] | None:
    """The git commit of the folder with main.py; None where no repository tracks it, or git is not there.

    Files that git does not know do not make it unclean: a repository is seldom without some.
    """
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    questions = (
        ["ls-files", "--error-unmatch", "main.py"],
        ["status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", "."],
    )
    try:
        asked = [
            subprocess.Popen(  # both at once: each takes some milliseconds to start
                [*GIT, *words],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for words in questions
        ]
        answers = [(process.communicate(timeout=PATIENCE)[0], process.returncode) for process in asked]
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    commit = re.search(r"^# branch\.oid ([0-9a-f]{40,})$", answers[1][0], re.MULTILINE)
    if any(code for _, code in answers) or not commit:
        return None
    return {"commit": commit[1], "clean": not re.search(r"^[^#]", answers[1][0], re.MULTILINE)}


def cpu() -> str | None:
    """The processor's name."""
    try:
        if sys.platform == "darwin":
            words = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE).stdout.strip() or None
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        return found[1].strip() if found else platform.processor() or None
    except (OSError, subprocess.SubprocessError):
        return platform.processor() or None


def memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
