"""The command `val`."""

import sys
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

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

    dataset, metadata = saved.open_dataset(opt, checkpoint), checkpoint["metadata"]
    items = dataset.part(opt.split, opt.val_fraction, opt.seed)
    fingerprint = dataset.fingerprint(items)
    own = opt.split == "val" and fingerprint == metadata["images"].get("val_files", fingerprint)
    if opt.split == "val" and not own:
        warning = "its files are not those of the training, so some of these images may have been trained on"
        print(f"warning: {dataset.root}: {warning}", file=sys.stderr)
    task = load_task(opt, checkpoint)
    epoch = f" of epoch {checkpoint['trainer']['epoch']}" if "trainer" in checkpoint else ""
    with val_loader(opt, dataset, items, task) as loader:
        print(f"{opt.model}{epoch} on {counted(len(items), f'{SPLITS[opt.split]} image')} of {dataset.root}")
        metrics, bad = validate(task, loader)
    print(task.messages(task).table(metrics))
    source = {"dataset": opt.dataset, "root": str(dataset.root), "split": opt.split, "fingerprint": fingerprint}
    values = {"images": len(items), "classes": task.classes, **metrics, "options": opt.read_by("val")}
    if path := results.write_metrics(Path(opt.load_path), source, own, values):
        print(f"written to {path}")
    for line in bad:
        print(f"replaced by another image of its class: {line}")
    return metrics
