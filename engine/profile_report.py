"""What `train --profile` leaves: the table of a step's parts, the dearest operators, the trace."""

import gzip
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from utils import files

PARTS = (
    *("waiting for data", "copying to the device", "forward", "backward", "optimizer"),
    *("the rest of the step", "between the steps"),
)
OPERATORS = 10  # in the table
LARGE = 10 * 2**20  # bytes from which on a trace is packed
RANGES = (*PARTS, "Optimizer.", "enumerate(", "autograd::engine::")  # how the names begin that are no operators


def part_lines(seconds: Mapping[str, float], steps: int) -> list[str]:
    """The parts of a step: milliseconds and percent; `seconds` are those of all the steps."""
    total = sum(seconds.values())
    rows = [*((part, seconds.get(part, 0.0)) for part in PARTS), ("a step", total)]
    head = f"{f'mean of {steps} steps':<44} {'':>7} {'ms':>9}"
    return [head, *(f"{name:<52} {1000 * value / steps:>9.2f} {value / total:>7.1%}" for name, value in rows)]


def operator_lines(trace: Any, steps: int, device: torch.device) -> list[str]:
    """The operators in which most time is spent, without what they call."""
    averages = [event for event in trace.key_averages() if not event.key.startswith(RANGES)]
    on_gpu = device.type == "cuda" and any(event.self_device_time_total for event in averages)
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # microseconds
    times = sorted(((getattr(event, kind) / 1e6, event) for event in averages), key=lambda pair: -pair[0])
    total, unit = sum(time for time, _ in times) or 1, "GPU" if on_gpu else "CPU"
    return [
        f"{f'dearest operators on the {unit}':<44} {'calls':>7} {'ms':>9}",
        *(
            f"{event.key[:44]:<44} {event.count / steps:>7.3g} {1000 * time / steps:>9.2f} {time / total:>7.1%}"
            for time, event in times[:OPERATORS]
        ),
    ]


def write_trace(trace: Any, folder: Path) -> Path:
    """trace.json, or where it is large trace.json.gz, which the viewers take as well; whole or not at all."""
    part, path = folder / f".trace{files.PART}", folder / "trace.json"
    with files.disk_errors_as_failure(path):
        try:
            trace.export_chrome_trace(str(part))
            if part.stat().st_size > LARGE:
                path = folder / "trace.json.gz"
                with part.open("rb") as source, files.atomic_write(path, "wb") as file, gzip.open(file, "wb") as packed:
                    shutil.copyfileobj(source, packed)
            else:
                part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return path
