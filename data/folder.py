"""Any images sorted into one folder a class."""

from pathlib import Path

from data.image_data import ImageData, Items, first_files, is_image
from utils.errors import UsageError


class Folder(ImageData):
    """Images sorted into one folder a class: `ROOT/<class>/*.jpg`; classes in alphabetical order.

    The layout of torchvision's ImageFolder. Sub-folders of a class count, files beside the class folders do not.
    Where ROOT holds `train` and `val` (or `valid`, `validation`, `test`), the second is for validation.
    """

    layout = "one folder a class, with two images or more in each"
    held_out_names = ("val", "valid", "validation", "test")

    @classmethod
    def fits(cls, root: Path) -> bool:
        folders = [path for path in first_files(root) if path.is_dir()]
        return sum(any(map(is_image, first_files(folder))) for folder in folders) > 1

    def scan(self, root: Path) -> tuple[list[str], Items]:
        held_out = next((root / name for name in self.held_out_names if (root / name).is_dir()), None)
        if held_out is None or not (root / "train").is_dir() or self.fits(root):
            return self._sorted(root)
        classes, items = self._sorted(root / "train")
        others, self.held_out = self._sorted(held_out)
        if others != classes:
            raise UsageError(f"{held_out} has the classes {others}, and {root / 'train'} has {classes}")
        return classes, items

    @staticmethod
    def _sorted(root: Path) -> tuple[list[str], Items]:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        files = {folder.name: sorted(p for p in folder.rglob("*") if is_image(p) and p.is_file()) for folder in folders}
        classes = [name for name, paths in files.items() if paths]
        return classes, [(path, label) for label, name in enumerate(classes) for path in files[name]]
