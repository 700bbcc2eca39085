"""What a run left to look at beside its record: the pictures of samples/, the lines of its log, a map of features."""

import re
from contextlib import suppress
from pathlib import Path

FEATURES = "features.json"  # in the run folder: written by `features`, drawn by `report`


def pictures(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """{name: [(epoch, file), ...]} in the order of epochs; 0 where a picture is of none."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in (folder / "samples").glob("*.png"):
        name, epoch = re.fullmatch(r"(.+?)(?:_(\d{3,}))?", path.stem, re.DOTALL).groups()  # type: ignore[union-attr]
        found.setdefault(name, []).append((int(epoch or 0), path))
    return {name: sorted(files) for name, files in sorted(found.items())}


def log_lines(folder: Path) -> list[str]:
    """What the terminal said, as far as it can be read."""
    with suppress(OSError):
        return (folder / "log.txt").read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    return []
