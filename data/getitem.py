"""One item of a data set as a tensor, for torch's DataLoader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.image_data import ImageData
from data.reading import rgb_image
from data.transforms import Preprocess


def load_transformed(dataset: ImageData, path: Path, transforms: Callable[..., Any] | None, augmented: bool) -> Any:
    """Reads an item of `dataset` as `ImageData.__getitem__` returns it.

    The randomness comes from torch's default generator, which DataLoader seeds in each worker.

    Raises:
        UsageError: the image cannot be read.
    """
    source = dataset.load(path)
    if transforms is not None:
        return transforms(rgb_image(source))
    preprocess = Preprocess(dataset.image_size, dataset.min_crop, tuple(dataset.mean), tuple(dataset.std))
    if not augmented:
        pixels = torch.tensor(preprocess.eval(source))
    else:
        key, flipped = torch.randint(2**62, (2,)).tolist()
        pixels = torch.tensor(preprocess.train(source, str(key)))
        pixels = pixels.flip(1) if dataset.flip and flipped % 2 else pixels
    return preprocess.normalize(pixels[None])[0].contiguous()
