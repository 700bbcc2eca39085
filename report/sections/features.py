"""A map of what a layer gives for each image, as `features` left it in the run folder."""

import json
from pathlib import Path
from typing import Any

from report import charts
from report.html import Markup, figure, join
from report.subject import Subject
from runs import past
from runs.history import is_number

TITLE = "Features"


def build(subject: Subject) -> Markup:
    found = [(run.name, record) for run in subject.histories if (record := read(run.folder / past.FEATURES))]
    several = len(subject.histories) > 1
    return join(_map(record, f" Run {name}." if several else "") for name, record in found)


def read(path: Path) -> dict[str, Any] | None:
    """What `features` wrote; None where it did not, or where that is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        columns = [record[key] for key in ("points", "names", "labels", "predicted")]
        points, *names = columns
        whole = len({len(column) for column in columns}) == 1 and len(record["parts"]) == 2
        numbers = all(map(is_number, [*record["parts"], *(value for x, y in points for value in (x, y))]))
        texts = all(isinstance(name, str) for column in names for name in column)
        return record if whole and numbers and texts and isinstance(record["source"], str) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _map(record: dict[str, Any], which: str) -> Markup:
    groups: dict[str, list[tuple[float, float, str]]] = {}
    rows = zip(record["points"], record["names"], record["labels"], record["predicted"], strict=True)
    for (x, y), name, label, predicted in rows:
        title = name if predicted == label else f"{name}, predicted {predicted}"
        groups.setdefault(label or f"predicted {predicted}", []).append((x, y, title))
    axes = [f"component {number}, {part:.0%} of the variance" for number, part in enumerate(record["parts"], 1)]
    what = f"Each dot is {record['source']} of {record.get('checkpoint')} for an image of {record.get('images')}"
    caption = f"{what}, along the two directions in which it differs most (principal components).{which}"
    return figure(charts.scatter({name: groups[name] for name in sorted(groups)}, *axes), caption)
