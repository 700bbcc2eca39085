"""Draws a past run again from its folder, by any sink."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from config import Config
from runs import past, sinks
from runs.history import History
from utils.errors import OneLineError, RunError, UsageError
from utils.text import counted

AT_ONCE = 1000  # entries between two waits for a view that draws at its own pace
OWN = ("env", "vis_port", "vis_server")  # options of replay's own; the others are the run's


def draw(run: History, opt: Config) -> str:
    """Gives the view that `opt.to` names all that the run kept: entries, pictures at their epochs, lines of the log.

    Returns:
        What was drawn, in a line for each page or file.

    Raises:
        UsageError: there is no such view, or it cannot be begun, as where no visdom server answers.
        RunError: the view is lost in the middle.
    """
    lines: list[str] = []
    view = _create(run, opt, lines.append)
    _wait(view, UsageError)
    pictures, count = _by_epoch(run.folder), 0
    events = in_order(run)
    for number, event in enumerate(events, start=1):
        _call(view, "log_event", event)
        epoch = {"start": 0, "epoch": event.get("epoch")}.get(event["kind"])
        for name, path in pictures.get(epoch, ()):
            _call(view, "log_image", name, np.asarray(Image.open(path).convert("RGB")))
            count += 1
        if number % AT_ONCE == 0:
            _wait(view, RunError)
    for line in past.log_lines(run.folder):
        _call(view, "log_text", line)
    _wait(view, RunError)
    _call(view, "close")
    drawn = ", ".join([counted(len(run.epochs), "epoch"), counted(len(run.steps), "step"), counted(count, "picture")])
    return "\n".join([f"{run.name} in {opt.to}: {drawn}", *lines])


def in_order(run: History) -> list[dict[str, Any]]:
    """The entries of a run in the order of its steps, each once: what a run that was never stopped would have."""
    entries = sorted([*run.steps, *run.epochs, *run.others], key=lambda e: (e.get("step", 0), e["kind"] == "epoch"))
    return [run.start | {"kind": "start"}, *entries]


def _create(run: History, opt: Config, warn: Any) -> Any:
    known = {name: value for name, value in run.options.items() if name in Config.fields()}
    wanted = {name: getattr(opt, name) for name in OWN} | {"tensorboard": opt.to == "tensorboard"}
    options = opt.model_copy(update=known | wanted)
    sinks.check(options)
    view = sinks.create(sinks.find(opt.to), run.folder, options, warn)
    if view is None:
        raise UsageError(
            f"--to={opt.to} has nowhere to draw{': leave out --vis-port=None' if opt.to == 'visdom' else ''}"
        )
    return view


def _by_epoch(folder: Path) -> dict[int | None, list[tuple[str, Path]]]:
    """{epoch: [(name, file), ...]}; 0: those of no epoch."""
    found: dict[int | None, list[tuple[str, Path]]] = {}
    for name, files in past.pictures(folder).items():
        for epoch, path in files:
            found.setdefault(epoch, []).append((name, path))
    return found


def _call(view: Any, method: str, *args: Any) -> None:
    getattr(view, method, lambda *_: None)(*args)


def _wait(view: Any, error: type[OneLineError]) -> None:
    """Waits until all is shown."""
    if why := getattr(view, "wait", lambda: "")():
        raise error(why)
