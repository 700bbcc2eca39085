"""The command `generate`."""

from typing import Any

from fire.decorators import SetParseFn

from engine import saved


@SetParseFn(str)
def generate(**flags: Any) -> list[str]:
    """Make images with a trained GAN: of many, those that its discriminator scores highest.

    The same seed gives the same files, byte for byte.

    Returns:
        A line for each file or folder written.

    Examples:
        python main.py generate --load-path=last
        python main.py generate --load-path=RUN --gen-num=64 --gen-search-num=512 --gen-img=result.png
        python main.py generate --load-path=RUN --gen-walk=walk.gif
    """
    opt, checkpoint = saved.load_saved("generate", flags)
    from engine.setup import load_task

    lines = load_task(opt, checkpoint).generate()
    for line in lines:
        print(line)
    return lines
