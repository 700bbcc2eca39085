"""The command `bench`."""

from typing import Any

from fire.decorators import SetParseFn

import data
from cli.resolve import resolve


@SetParseFn(str)
def bench(**flags: Any) -> dict[str, float]:
    """Measure the speed of training here: the plain tutorial loop, this program, and the bare step, side by side.

    Returns:
        The ratios of this program's images a second to those of the others.

    Examples:
        python main.py bench --train-data-root=DIR
        python main.py bench --config=demo --batch-size=64
        python main.py bench --train-data-root=DIR --json
    """
    opt = resolve("bench", flags)
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from analysis.bench import compare

    return compare(opt, dataset)
