"""The command `explain`."""

from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

from data.listing import endings, find_each
from engine import saved
from utils.text import counted, printable


@SetParseFn(str)
def explain(*images: Any, **flags: Any) -> list[tuple]:
    """Show where in images a classifier looks, by Grad-CAM: a picture for each image.

    It has the image as the net sees it, and heat maps for the predicted class and the one after it.

    Returns:
        For each image (its path, predicted class, its probability, the picture).

    Examples:
        python main.py explain --load-path=last data/test1
        python main.py explain --load-path=checkpoints/RUN cat.jpg dog.jpg --layer=layer3 --heatmap-folder=looks
    """
    opt, checkpoint = saved.load_saved("explain", flags)
    found, others = find_each(images, "explain", Path(opt.heatmap_folder))

    from analysis.explain import explain_images
    from engine.setup import load_task

    rows = explain_images(load_task(opt, checkpoint), found)
    if others:
        print(f"{counted(len(others), 'file')} left out as no images: {endings(others)}, as {printable(others[0])}")
    return rows
