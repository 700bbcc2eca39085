"""The command `val`."""

import sys
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

from config import Config
from engine import saved
from utils.text import counted

SPLITS = {"val": "validation", "train": "training", "test": "test", "all": "labelled"}  # in words


@SetParseFn(str)
def val(**flags: Any) -> dict[str, Any]:
    """Evaluate a checkpoint on the validation part that its training kept aside, or on other labelled images.

    The split, the preprocessing and the model come from the checkpoint. The metrics go into the run folder too, with
    the data and the options: as val_best.json (val_last.json), on other images val_best_<split>_<fingerprint>.json.

    Returns:
        The metrics.

    Examples:
        python main.py val --load-path=last
        python main.py val --load-path=checkpoints/RUN/last.pth --train-data-root=DIR
        python main.py val --load-path=last --train-data-root=DIR --split=all
    """
    opt, checkpoint = saved.load_saved("val", flags)
    from engine.setup import load_task, val_loader
    from engine.validation import validate
    from runs import results

    dataset = saved.open_dataset(opt, checkpoint)
    items = dataset.part(opt.split, opt.val_fraction, opt.seed)
    fingerprint = dataset.fingerprint(items)
    parts = {opt.load_path: checkpoint, **checkpoint.get("others", {})}  # of an ensemble; else it alone
    others = [p for p, c in parts.items() if c["metadata"]["images"].get("val_files", fingerprint) != fingerprint]
    for path in others if opt.split == "val" else ():
        whose = f" of {path}" if len(parts) > 1 else ""
        warning = f"its files are not those of the training{whose}, so some of these images may have been trained on"
        print(f"warning: {dataset.root}: {warning}", file=sys.stderr)
    task = load_task(opt, checkpoint)
    with val_loader(opt, dataset, items, task) as loader:
        print(f"{_who(opt, parts)} on {counted(len(items), f'{SPLITS[opt.split]} image')} of {dataset.root}")
        metrics, bad = validate(task, loader)
    print(task.messages(task).table(metrics))
    source = {"dataset": opt.dataset, "root": str(dataset.root), "split": opt.split, "fingerprint": fingerprint}
    values = {"images": len(items), "classes": task.classes, **metrics, "options": opt.read_by("val")}
    own = opt.split == "val" and not others
    if len(parts) == 1 and (path := results.write_metrics(Path(str(opt.load_path)), source, own, values)):
        print(f"written to {path}")
    for line in bad:
        print(f"replaced by another image of its class: {line}")
    return metrics


def _who(opt: Config, parts: dict[str | None, dict[str, Any]]) -> str:
    if len(parts) > 1:
        return f"the mean probabilities of {len(parts)} nets"
    trainer = parts[opt.load_path].get("trainer")
    return f"{opt.model} of epoch {trainer['epoch']}" if trainer else opt.model
