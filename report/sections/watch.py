"""What each layer did, as `--watch` recorded it: a table for each number, a row for each layer, over the steps."""

from typing import Any

import numpy as np

from report.charts import heat
from report.html import Markup, figure, join
from report.scale import picked
from report.subject import Subject

TITLE = "Layers"
# Name in the record: (what it is, whether to shade by the logarithm).
TABLES = {
    "activation": ("Spread (standard deviation) of each layer's output", True),
    "gradient": ("Spread of the gradients of its weights", True),
    "update": ("Length of a step relative to the weights; about 0.001 is usual, 0 where they are frozen", True),
    "dead": ("Part of its units that gave 0 for the whole batch", False),
}
STEPS, LAYERS = 12, 48  # that a table shows


def build(subject: Subject) -> Markup | str:
    """The tables of the best run, or of the first that was watched; "" where none was."""
    for history in (subject.best, *subject.histories):
        entries = [entry for entry in history.others if is_watched(entry)]
        if entries:
            tables = [_table(picked(entries, STEPS), name, *how) for name, how in TABLES.items()]
            return join([table for table in tables if table])
    return ""


def is_watched(entry: dict[str, Any]) -> bool:
    """Whether it is an entry of `--watch` that can be shown: a damaged record must not spoil the page."""
    layers, step = entry.get("layers"), entry.get("step")
    return (
        entry.get("kind") == "watch"
        and type(step) is int
        and isinstance(layers, list)
        and all(isinstance(entry.get(name), list) and len(entry[name]) == len(layers) for name in TABLES)
    )


def _table(entries: list[dict[str, Any]], name: str, caption: str, log: bool) -> Markup | str:
    columns = [dict(zip(entry["layers"], entry[name], strict=True)) for entry in entries]
    layers = list(dict.fromkeys(str(layer) for column in columns for layer, v in column.items() if v is not None))
    if not layers:
        return ""
    rows = picked(layers, LAYERS)
    matrix = np.array([[column.get(layer) for column in columns] for layer in rows], dtype=float)
    more = f"; {len(rows)} of {len(layers)} layers" if len(rows) < len(layers) else ""
    steps = [f"{entry['step']}" for entry in entries]
    return figure(heat(matrix, rows, steps, shades(matrix, log), "layer, step"), f"{caption}, by step{more}.")


def shades(matrix: np.ndarray, log: bool) -> np.ndarray:
    """How dark each cell is, in [0, 1]: by its value, or by where its logarithm lies among all of them."""
    if not log:
        return np.nan_to_num(matrix)
    positive = np.isfinite(matrix) & (matrix > 0)
    if not positive.any():
        return np.zeros_like(matrix)
    logs = np.log10(np.where(positive, matrix, 1))
    low, high = logs[positive].min(), logs[positive].max()
    return np.where(positive, 0.05 + 0.95 * (logs - low) / max(high - low, 1e-9), 0)
