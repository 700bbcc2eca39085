"""The report of `check`: what of a data set, a machine and the options would stop a run, or spoil it."""

import shutil
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path

from torch import nn

from config import Config
from data.image_data import ImageData, Items, is_image
from data.inspection import Inspection, inspect_images
from data.loaders import EpochLoader, cores
from data.transforms import Preprocess
from engine.device import oom_as_failure, size_of
from engine.setup import build_training, train_loader
from engine.tasks.base import Task
from utils.errors import RunError
from utils.text import counted, printable

SHOWN = 10  # names a section lists
DARK = 1 / 4  # of its range; an image that uses no more is named
UNBALANCED = 3  # times as many images in the largest class as in the smallest


def check_dataset(opt: Config, dataset: ImageData) -> list[str]:
    """Prints the report. Returns what would stop a run, a line each."""
    start = time.monotonic()
    train, val = dataset.split(opt.val_fraction, opt.seed)
    inspections = inspect_images(dataset, sorted(train + val), Preprocess(opt.image_size), cores())
    good = [one for one in inspections if not one.problem]
    parts, seconds = f"{len(train)} for training, {len(val)} for validation", time.monotonic() - start
    total = counted(len(inspections), "image")
    print(f"{opt.dataset} in {printable(dataset.root)}: {total} ({parts}), read in {seconds:.0f} s")
    report_classes(dataset.classes, train + val)
    report_sizes(good, opt.image_size)
    report_kinds(good, dataset.root)
    report_left_out(dataset)
    report_duplicates(inspections, {path for path, _ in val}, dataset)
    problems = unreadable(inspections, opt, dataset, {"training": train, "validation": val})
    return problems + machine(opt, dataset, {one.path for one in good})


def report_problems(problems: list[str]) -> None:
    """The last line."""
    print(f"{len(problems)} would stop a run: {'; '.join(problems)}" if problems else "nothing here would stop a run")


def row(title: str, text: str) -> None:
    print(f"  {title:<12} {text}")


def below(root: Path, path: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def names(paths: list[Path], root: Path) -> str:
    shown = ", ".join(below(root, path) for path in paths[:SHOWN])
    return shown + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")


def report_classes(classes: list[str], items: Items) -> None:
    count = Counter(label for _, label in items)
    by_count = count.most_common()
    (most, largest), (least, smallest) = by_count[0], by_count[-1]
    if len(count) <= SHOWN:
        row("classes", ", ".join(f"{name} {count[k]}" for k, name in enumerate(classes)))
    else:
        spread = f"{smallest} ({classes[least]}) to {largest} ({classes[most]}) images each"
        row("classes", f"{len(count)}, {spread}")
    if largest > UNBALANCED * smallest:
        times = f"{largest / smallest:.1f} times as many of {classes[most]} as of {classes[least]}"
        row("", f"note: unbalanced, {times}: accuracy flatters")


def report_sizes(good: list[Inspection], image_size: int) -> None:
    if not good:
        return
    sides = [min(one.size) for one in good if one.size]
    low, middle, high = min(sides), statistics.median_low(sides), max(sides)
    row("shorter side", f"{low} to {high} pixels, median {middle}")
    if small := sum(side < image_size for side in sides):
        row("", f"note: {small} are smaller than --image-size={image_size} and get enlarged")


def report_kinds(good: list[Inspection], root: Path) -> None:
    """Odd images, which are read all the same."""
    by_kind = defaultdict(list)
    for one in good:
        for kind in one.kinds:
            by_kind[kind].append(one.path)
    if dark := {one.path: one.span for one in good if one.span is not None and one.span <= DARK}:
        by_kind[f"dark: the brightest uses {100 * max(dark.values()):.2g}% of its range"] = list(dark)
    for number, (kind, paths) in enumerate(by_kind.items()):
        row("" if number else "odd, read", f"{len(paths)} {kind}, as {names(paths[:1], root)}")


def report_left_out(dataset: ImageData) -> None:
    paths = dataset.left_out()
    images = [path for path in paths if is_image(path)]
    if images:
        row("left out", f"{counted(len(images), 'image')} whose label no rule of {type(dataset).__name__} explains:")
        row("", names(images, dataset.root))
    if others := [path for path in paths if not is_image(path)]:
        row(
            "" if images else "left out",
            f"{counted(len(others), 'file')} of no image format: {names(others, dataset.root)}",
        )


def report_duplicates(inspections: list[Inspection], val: set[Path], dataset: ImageData) -> None:
    """The same bytes twice: under two labels, in both parts, within one."""
    by_digest = defaultdict(list)
    for one in inspections:
        if not one.problem:
            by_digest[one.digest].append(one)
    groups: dict[str, list[list[Inspection]]] = {
        "with two labels, so one of them is wrong": [],
        "in training and in validation: accuracy flatters": [],
    }
    labels, across = groups.values()
    within = 0
    for group in (group for group in by_digest.values() if len(group) > 1):
        if len({one.label for one in group}) > 1:
            labels.append(group)
        elif len({one.path in val for one in group}) > 1:
            across.append(group)
        else:
            within += 1
    title = "duplicates"
    for what, some in groups.items():
        if some:
            row(title, f"{len(some)} {what}")
            title = ""
        for group in some[:SHOWN]:
            row("", " = ".join(below(dataset.root, one.path) for one in group[:4]))
    if within:
        row(title, f"{within} within one part")


def unreadable(inspections: list[Inspection], opt: Config, dataset: ImageData, parts: dict[str, Items]) -> list[str]:
    """Prints the images that cannot be read; returns what of it would stop a run."""
    bad = [one for one in inspections if one.problem]
    if not bad:
        return []
    replaced = ", each replaced by another of its class" if opt.on_bad_image == "skip" else ""
    row("unreadable", f"{len(bad)} of {len(inspections)}{replaced}:")
    for one in bad[:SHOWN]:
        row("", f"{below(dataset.root, one.path)}: {one.problem}")
    if len(bad) > SHOWN:
        row("", f"and {len(bad) - SHOWN} more")
    if opt.on_bad_image == "fail":
        return [f"{counted(len(bad), 'unreadable image')} (remove them, or train with --on-bad-image=skip)"]
    paths = {one.path for one in bad}
    return [
        f"no readable image of {name} for {part}"
        for part, items in parts.items()
        for k, name in enumerate(dataset.classes)
        if all(path in paths for path, label in items if label == k)
    ]


def machine(opt: Config, dataset: ImageData, good: set[Path]) -> list[str]:
    """Prints the device, one training step and the disk; returns what of it would stop a run."""
    opt = opt.model_copy(update={"num_workers": 0, "cache": "off"})
    task, loaders, _ = build_training(opt, dataset)
    row("device", str(task.device))
    items = [item for item in loaders.train.items if item[0] in good]
    if len(items) < 2:
        return []
    with train_loader(opt, dataset, items, task.preprocess, task.device) as loader:
        problems = step(task, loader, opt)
    return problems + disk(task, opt)


def step(task: Task, loader: EpochLoader, opt: Config) -> list[str]:
    batch = next(iter(loader))
    start = time.monotonic()
    try:
        with oom_as_failure(opt, opt.image_size):
            metrics = task.train_step(batch)
    except RunError as e:
        return [str(e)]
    except RuntimeError as e:
        if "does not require grad" not in str(e):
            raise
        return [cut_off(task.net)]
    text = ", ".join(f"{name.replace('_', ' ')} {float(value):.4f}" for name, value in metrics.items())
    row(
        "one step",
        f"{opt.model}, {counted(len(batch), 'image')}: {text}, {time.monotonic() - start:.1f} s with warm-up",
    )
    return []


def cut_off(net: nn.Module) -> str:
    """Why no weight of a net gets a gradient."""
    if not any(p.requires_grad for p in net.parameters()):
        return "no weight of the net learns: requires_grad is False for all of them"
    return "the net's output is cut off from its weights: by a detach(), no_grad(), .data or argmax() in forward"


def disk(task: Task, opt: Config) -> list[str]:
    """Compares the free disk with what a run's checkpoints take: those kept, the best, and one being written."""
    place = Path(opt.checkpoint_dir)
    while not place.exists():
        place = place.parent
    free, one = shutil.disk_usage(place).free, size_of(task.state_dict())
    needed = one * (opt.keep + 2)
    row("disk", f"{free / 2**20:.0f} MiB free for {opt.checkpoint_dir}; a run takes up to {needed / 2**20:.0f} MiB")
    return [f"too little disk for {opt.keep + 2} checkpoints of {one / 2**20:.0f} MiB"] if free < needed else []
