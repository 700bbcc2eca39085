"""The built-in data set: cats and dogs that the project draws itself."""

from pathlib import Path

from data import drawing
from data.dogcat import DogCat


class Demo(DogCat):
    """Drawn cats and dogs in the layout of Dogs vs. Cats, made on first use; needs no download.

    Labelled images lie in `data/demo/train`, others in `data/demo/test1`, as on Kaggle.
    """

    home = "data/demo/train"

    def __init__(self, root: str | Path | None = None) -> None:
        folder = Path(root or self.home).parent
        if not folder.exists():
            drawing.write(folder)
        super().__init__(root)
