"""What a report is about: runs, in groups that differ in the seed alone, and what the best net says of each image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from config import Config
from runs.history import History
from runs.table import TOLD
from utils.errors import RunError, UsageError

if TYPE_CHECKING:
    from analysis.judged import Judged


@dataclass
class Group:
    """Runs that differ in the seed alone: one, mostly."""

    name: str
    runs: list[History]


@dataclass
class Subject:
    """The runs of a report.

    Attributes:
        judged: what the best epoch's net of the best run says of each validation image; None where that is not wanted
            or cannot be had, and `why_not` says why.
    """

    histories: list[History]
    judged: "Judged | None" = None
    why_not: str = ""

    @property
    def best(self) -> History:
        """The run whose best epoch is the best one; the first, where they are monitored by different metrics."""
        first = self.histories[0]
        known = [run for run in self.histories if run.best and run.monitor == first.monitor]
        sign = -1 if first.falls else 1
        return max(known, key=lambda run: sign * run.best[f"val_{run.monitor}"], default=first)  # type: ignore[index]

    @cached_property
    def groups(self) -> list[Group]:
        found: dict[str, list[History]] = {}
        for run in self.histories:
            same = [run.option(name) for name in TOLD if name != "seed"]
            found.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(run)
        return [Group(_name(runs), runs) for runs in found.values()]


def _name(runs: Sequence[History]) -> str:
    return runs[0].name if len(runs) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def make(histories: list[History], opt: Config) -> Subject:
    """The runs, and with opt.gallery what the net of the best one says of each validation image."""
    subject = Subject(histories)
    if not opt.gallery:
        subject.why_not = "left out by --no-gallery"
        return subject
    try:
        subject.judged = _judge(subject.best, opt)
    except ModuleNotFoundError:
        subject.why_not = "this version cannot evaluate a run again"
    except (UsageError, RunError) as e:
        subject.why_not = str(e)
    return subject


def _judge(run: History, opt: Config) -> Any:
    from analysis.judged import judge

    return judge(run, opt)
