"""The command `summary`."""

from typing import Any

from fire.decorators import SetParseFn

from cli.resolve import resolve
from engine import saved


@SetParseFn(str)
def summary(**flags: Any) -> dict[str, Any]:
    """Show a net layer by layer, and what it costs: parameters, multiply-adds, the memory of a training step.

    Neither images nor a GPU are needed: the net is run without data.

    Returns:
        Parameters, multiply-adds of one image, and the bytes of a training step.

    Examples:
        python main.py summary --model=resnet18 --dataset=ImageNet
        python main.py summary --config=cifar10 --batch-size=128
        python main.py summary --load-path=last
    """
    opt = resolve("summary", flags)
    checkpoint: dict[str, Any] = {}
    if opt.load_path is not None:
        opt, checkpoint = saved.load_saved("summary", flags)

    from analysis import summary as report

    facts = report.facts_of_checkpoint(checkpoint["metadata"]) if checkpoint else report.facts_of_dataset(opt)
    return report.summarize(opt, facts)
