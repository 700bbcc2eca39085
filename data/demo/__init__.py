"""The built-in data set: cats and dogs that the project draws itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.dataset import DogCat
from data.demo import drawing


class Demo(DogCat):
    """Drawn cats and dogs in the layout of Dogs vs. Cats, made on first use; needs no download.

    Labelled images are in `data/demo/train`, unlabelled ones in `data/demo/test1`, as on Kaggle. Another root
    must also end in `demo/train`.
    """

    home = "data/demo/train"

    def __init__(
        self,
        root: str | Path | None = None,
        transforms: Callable[..., Any] | None = None,
        train: bool | None = None,
        test: bool = False,
    ) -> None:
        root = Path(root or self.home)
        wanted = ("demo", "test1") if test else ("demo", "train")
        if root.parts[-2:] == wanted and not root.exists():  # a mistyped path draws nothing
            drawing.write(root.parent)
        super().__init__(root, transforms, train, test)
