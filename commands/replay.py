"""The command `replay`."""

from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

from cli.resolve import resolve
from runs import history


@SetParseFn(str)
def replay(*folders: Any, **flags: Any) -> list[Path]:
    """Draw past runs again, from their folders, on a visdom page, in TensorBoard or by a sink of yours.

    Returns:
        The folders.

    Examples:
        python main.py replay last
        python main.py replay RUN OTHER_RUN --env=both
        python main.py replay last --to=tensorboard
    """
    opt = resolve("replay", flags)
    found = history.find(folders, opt.checkpoint_dir)
    from runs import replay

    for run in found:
        print(replay.draw(run, opt))
    return [run.folder for run in found]
