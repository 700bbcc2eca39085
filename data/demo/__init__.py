"""The built-in data set: cats and dogs that the project draws itself."""

from pathlib import Path

from data.dataset import DogCat
from data.demo import drawing


class Demo(DogCat):
    """Drawn cats and dogs in the layout of Dogs vs. Cats, made on first use; needs no download.

    Labelled images lie in `data/demo/train`, others in `data/demo/test1`, as on Kaggle. Another place must end
    in `demo/train` too.
    """

    home = "data/demo/train"

    def __init__(self, root: str | Path | None = None) -> None:
        root = Path(root or self.home)
        if root.parts[-2:] == ("demo", "train") and not root.exists():  # a mistyped path draws nothing
            drawing.write(root.parent)
        super().__init__(root)
