"""The pictures of the run folder: what the net saw, what it predicted, what it made."""

from pathlib import Path

import numpy as np
from PIL import Image

from report.html import Markup, figure, image, join, paragraph, tag
from report.scale import picked
from report.subject import Subject
from runs import past
from runs.history import History

TITLE = "Images"
FRAMES = 8  # epochs of a GAN
WIDE, LARGE, SMALL = 1024, 720, 400  # pixels a side, at most
COMPARED = 6  # runs


def build(subject: Subject) -> Markup:
    run, parts = subject.best, []
    whose = f" of {run.name}" if len(subject.histories) > 1 else ""
    seen = read(run.folder / "samples" / "augmented.png", LARGE)
    if seen is not None:
        alt = "training images after augmentation"
        width = min(2 * seen.shape[1], LARGE) if seen.shape[1] < SMALL else None  # small pixels, twice as large
        parts.append(
            figure(image(seen, alt, width), f"Training images{whose} as the net sees them: cropped and augmented.")
        )
    parts += [_predicted(run), _generated(subject)]
    return join(part for part in parts if part)


def _predicted(run: History) -> Markup:
    found = numbered(run, "predictions")
    if not found:
        return Markup()
    best = run.best["epoch"] if run.best else max(found)
    epoch = best if best in found else max(found)
    seen = read(found[epoch], WIDE)  # it holds small text
    if seen is None:
        return Markup()
    caption = f"Predictions for validation images in epoch {epoch}: green where right, red where wrong."
    return figure(image(seen, f"validation images with what the net of epoch {epoch} says of them"), caption)


def _generated(subject: Subject) -> Markup:
    """Of one GAN the same noises over the epochs; of several what each made last."""
    if len(subject.histories) > 1:
        runs = [group.runs[0] for group in subject.groups]
        last = [(run.name, found[max(found)]) for run in runs if (found := numbered(run, "generated"))][:COMPARED]
        frames, what = last, "the runs"
    else:
        found = numbered(subject.histories[0], "generated")
        frames, what = [(f"epoch {epoch}", found[epoch]) for epoch in picked(sorted(found), FRAMES)], "the epochs"
    shown = [(name, seen) for name, path in frames if (seen := read(path, SMALL)) is not None]
    if not shown:
        return Markup()
    strip = [figure(image(seen, f"generated images, {name}"), name) for name, seen in shown]
    attributes = {"data_slider": "epoch"} if len(subject.histories) == 1 else {}
    note = paragraph(f"Images made of the same noise vectors over {what}:")
    return join([note, tag("div", join(strip), class_="strip", **attributes)])


def numbered(run: History, name: str) -> dict[int, Path]:
    """{epoch: file} of the pictures of a name in the run folder."""
    return dict(past.pictures(run.folder).get(name, ()))


def read(path: Path, most: int) -> np.ndarray | None:
    """(H, W, 3) uint8, no side longer than `most`; None where the file is missing or damaged."""
    try:
        with Image.open(path) as picture:
            picture.thumbnail((most, most))
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
