"""The command `export`."""

from typing import Any

from fire.decorators import SetParseFn

from engine import saved


@SetParseFn(str)
def export(**flags: Any) -> dict[str, Any]:
    """Write a trained net as one file that other programs run, compare it with the net, and put a model card beside it.

    The file takes batches of any size. Where its answers differ from the net's by more than 0.0001 on images of the
    validation part, nothing is written. val, test and predict take the file as --load-path.

    Returns:
        The file, and the largest differences.

    Examples:
        python main.py export --load-path=last
        python main.py export --load-path=checkpoints/RUN --format=torch --pixels
        python main.py export --load-path=last --quantize
    """
    opt, checkpoint = saved.load_saved("export", flags)
    from export.writing import Export

    done = Export(opt, checkpoint)
    done.write()
    for line in done.lines:
        print(line)
    return done.told
