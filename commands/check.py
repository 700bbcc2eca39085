"""The command `check`."""

from typing import Any

from fire.decorators import SetParseFn

import data
from cli.resolve import for_classifiers, resolve
from utils import files


@SetParseFn(str)
def check(**flags: Any) -> list[str]:
    """Inspect a data set before training on it: unreadable and odd files, labels, duplicates, disk, one step.

    Exit code 1 where something would stop a run.

    Returns:
        What would stop a run, a line each.

    Examples:
        python main.py check --train-data-root=DIR
        python main.py check --config=demo
        python main.py check --config=demo --overfit
        python main.py check --config=demo --lr-find=lr_find.png
    """
    opt = resolve("check", flags)
    for_classifiers(opt, "overfit", "lr_find")
    if opt.lr_find:
        files.check_writable(opt.lr_find, "--lr-find")
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from analysis.check import check_dataset, report_problems

    problems = check_dataset(opt, dataset)
    if opt.overfit and not problems:
        from analysis.overfit import overfit

        problems += overfit(opt, dataset)
    if opt.lr_find and not problems:
        from analysis.lr_find import find_lr

        problems += find_lr(opt, dataset, opt.lr_find)
    report_problems(problems)
    return problems
