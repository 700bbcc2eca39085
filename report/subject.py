"""What a report is about: runs, in groups that differ in the seed alone, and what the best net says of each image."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from config import Config
from runs import table
from runs.history import History
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
        """As in the table of `runs`: finished runs of several seeds are one group."""
        by_folder = {run.folder: run for run in self.histories}
        rows = table.grouped([table.row_of(run) for run in self.histories])
        return [Group(row.name, [by_folder[one.folder] for one in row.runs]) for row in rows]


def make(histories: list[History], opt: Config) -> Subject:
    """The runs, and with opt.gallery what the net of the best one says of each validation image."""
    subject = Subject(histories)
    if not opt.gallery:
        subject.why_not = "left out by --no-gallery"
        return subject
    from analysis.judged import judge  # torch: not without need

    try:
        subject.judged = judge(subject.best, opt)
    except (UsageError, RunError) as e:
        subject.why_not = str(e)
    return subject
