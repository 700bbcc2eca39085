"""Repeats what the presets promise: `make results DATA=DIR` trains each with the seeds 0, 1 and 2 and writes a table.

DIR holds cifar10/, mnist/, dogcat/train/ and anime/faces/ (docs/data.md); a preset whose images are not there is left
out. A run that was finished is not repeated, so what was interrupted can go on. With --quick each preset trains one
epoch with one seed, only to see that its command works.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fire

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli import presets  # noqa: E402

FOLDERS = {"MNIST": "mnist", "CIFAR10": "cifar10", "DogCat": "dogcat/train", "Unlabelled": "anime/faces", "Demo": ""}
JUDGES = {"mnist_gan": "mnist", "anime": "cifar10"}  # whose run's features tell how good generated images are
COLUMNS = ("preset", "promised", "reached after the last epoch", "minutes", "peak memory")


def header(name: str) -> dict[str, str]:
    """The lines `Time: ...` and `Result: ...` at the head of a preset."""
    text = presets.locate(name).read_text(encoding="utf-8")
    return dict(re.findall(r"^# (Command|Time|Result): (.+)$", text, re.MULTILINE))


def main(data: str, out: str = "checkpoints/results", quick: bool = False, names: str = "") -> None:
    """Trains, and prints the table row by row; it is in OUT/table.md too."""
    folder = Path(out, "quick") if quick else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    every = names.split(",") if names else sorted(presets.names(), key=lambda name: name in JUDGES)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    print(*lines, sep="\n", flush=True)
    for name in every:
        row = f"| {' | '.join(_row(name, Path(data), folder, quick))} |"
        lines.append(row)
        print(row, flush=True)
    machine = f"{os.cpu_count()} CPU cores, {platform.processor() or platform.machine()}"
    note = "One epoch and one seed each: no figures to compare. " if quick else ""
    (folder / "table.md").write_text(
        "\n".join([*lines, "", f"{note}Measured {time.strftime('%Y-%m-%d')} on {machine}", ""])
    )


def _row(name: str, data: Path, folder: Path, quick: bool) -> list[str]:
    options = {key: value for key, (value, _) in presets.read(name).items()}
    kind = options.get("dataset") or ("Unlabelled" if name in JUDGES else "DogCat")
    images = data / FOLDERS[kind]
    if not images.is_dir():
        return [name, "", f"left out: no {images}", "", ""]
    flags = [] if kind == "Demo" else [f"--train-data-root={images}"]
    if kind == "CIFAR10" and (images / "train").is_dir():
        flags.append("--dataset=Folder")
    if (judge := folder / f"{JUDGES.get(name)}_0").is_dir():
        flags.append(f"--judge={judge}")
    runs = [_run(name, seed, flags, folder, quick) for seed in ((0,) if quick else (0, 1, 2))]
    if failed := next((run["error"] for run in runs if "error" in run), None):
        return [name, "", f"failed: {failed}", "", ""]
    minutes, memory = (statistics.mean(run[key] for run in runs) for key in ("seconds", "mib"))
    return [name, header(name)["Result"], _figures(runs), f"{minutes / 60:.1f}", f"{memory:.0f} MiB"]


def _figures(runs: list[dict[str, Any]]) -> str:
    """Mean and deviation of the last epoch's metrics over the seeds."""
    told = []
    for metric in ("accuracy", "distance", "spread", "confidence"):
        if values := [run["metrics"][metric] for run in runs if metric in run["metrics"]]:
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            mean = statistics.mean(values)
            told.append(f"{mean:.2%}{spread}" if metric == "accuracy" else f"{metric} {mean:.3g}{spread}")
    return ", ".join(told)


def _run(name: str, seed: int, flags: list[str], folder: Path, quick: bool) -> dict[str, Any]:
    """One training, unless it was finished before: seconds, peak memory, the metrics of its last epoch."""
    kept = folder / f"{name}_{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    run = folder / f"{name}_{seed}"
    words = (
        [f"--resume={run}"] if run.is_dir() else [f"--config={name}", f"--seed={seed}", f"--name={run.name}", *flags]
    )
    words += ["--max-epoch=1"] if quick else []
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "main.py", "train", *words, f"--checkpoint-dir={run.parent.resolve()}", "--vis-port=None"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    error = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        return {"error": (error.strip().splitlines() or ["no message"])[-1]}
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [event for event in events if event["kind"] == "epoch"][-1]
    metrics = {key.removeprefix("val_"): value for key, value in last.items() if key.startswith("val_")}
    found = {"seconds": time.monotonic() - start, "mib": usage.ru_maxrss / 1024, "metrics": metrics}
    kept.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    fire.Fire(main)
