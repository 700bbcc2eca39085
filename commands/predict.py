"""The command `predict`."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

from data.sources import Sources
from engine import saved
from utils.text import counted

SHOWN = 10  # classes in a line


@SetParseFn(str)
def predict(*images: Any, **flags: Any) -> dict[str, int]:
    """Label images, and print a line for each as they come: CSV, or JSON lines (--json).

    Images are folders, files, patterns, zip archives, or - for names on standard input: as many as there may be.
    Those that cannot be read are named, and left out.

    Returns:
        How many images were given each class.

    Examples:
        python main.py predict --load-path=last photos
        python main.py predict --load-path=last "photos/**/*.jpg" more.zip --top-k=3 --json > labels.jsonl
        python main.py predict --load-path=last photos --sort-into=sorted --unsure-below=0.8 --least-sure=look.html
    """
    opt, checkpoint = saved.load_saved("predict", flags)
    found = Sources(images, Path(opt.sort_into) if opt.sort_into else None, opt.watch_folder)

    from engine.device import oom_as_failure
    from engine.predicting import predictions
    from engine.setup import load_task, stream_loader
    from report.least_sure import LeastSure
    from runs.predictions import Rows
    from runs.sorting import Sorted

    task = load_task(opt, checkpoint)
    page = LeastSure(Path(opt.least_sure), task.classes) if opt.least_sure else None
    piles = Sorted(Path(opt.sort_into), task.classes, opt.unsure_below, opt.copies) if opt.sort_into else None
    views = [view for view in (piles, page, Rows(sys.stdout, task.classes, opt.top_k, opt.json)) if view]
    counts, bad = Counter[str](), 0
    try:
        with stream_loader(opt, found, task) as loader, oom_as_failure(opt, task.preprocess.image_size):
            for batch, unreadable in predictions(task, loader):
                for prediction in batch:
                    counts[task.classes[prediction.label]] += 1
                    for view in views:
                        view.add(prediction)
                sys.stdout.flush()
                bad += unreadable
    finally:
        if page:
            page.write()
    _tell(counts, bad, found.left_out())
    return dict(counts)


def _tell(counts: Counter[str], bad: int, left_out: str) -> None:
    """What was done, beside the lines."""
    told = f"{counted(counts.total(), 'image')}: " + ", ".join(f"{name} {n}" for name, n in counts.most_common(SHOWN))
    if len(counts) > SHOWN:
        told += f", and {len(counts) - SHOWN} other classes"
    told += f"; {bad} cannot be read" if bad else ""
    print("\n".join(filter(None, [told, left_out])), file=sys.stderr)
