"""Images without labels: for GANs, and those that `test` labels."""

from collections import Counter
from pathlib import Path

from data.image_data import ImageData, Items, image_files
from data.listing import find_unlabelled as find
from utils.text import counted

__all__ = ["Unlabelled", "find"]


class Unlabelled(ImageData):
    """Any images, in one folder or in sub-folders, without labels: for GANs."""

    layout = "four images or more"
    mean, std, min_crop = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0
    image_size, val_part = 96, 0.1

    def scan(self, root: Path) -> tuple[list[str], Items]:
        paths = image_files(root)
        count = Counter(path.relative_to(root).parent.as_posix() for path in paths)
        if count.keys() - {"."}:
            listed = ", ".join(f"{name} {number}" for name, number in sorted(count.items())[:10])
            more = f", and {len(count) - 10} more" if len(count) > 10 else ""
            total = f"{counted(len(paths), 'image')} from {counted(len(count), 'folder')}"
            self.notes = [f"{self.name} in {root}: {total}: {listed}{more}"]
        return ["image"], [(path, 0) for path in paths]

    def split(self, val_fraction: float | None, seed: int) -> tuple[Items, Items]:
        """As in `ImageData`, with at least two images for validation: GAN metrics compare images."""
        return super().split(max(val_fraction or self.val_part, 2 / len(self.items)), seed)

    @staticmethod
    def _usable(classes: list[str], items: Items) -> bool:
        return len(items) >= 4
