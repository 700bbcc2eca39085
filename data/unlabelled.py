"""Images without labels: those that `test` labels, and those that a GAN learns from."""

from collections import Counter
from pathlib import Path

from data.image_data import ImageData, Items, files_below, is_image
from utils.errors import UsageError


def find(root: str | Path) -> list[tuple[str, Path]]:
    """The images of a folder (sub-folders too), or one image file, as (id, path) sorted by id.

    An id is the file's number where its name is one, else its path below `root`. Numbers come first, in order.

    Raises:
        UsageError: there is no such file or folder, or no image in it.
    """
    root = Path(root)
    if root.is_file():
        paths, folder = [root], root.parent
    elif root.is_dir():
        paths, folder = [p for p in root.rglob("*") if is_image(p) and p.is_file()], root
    else:
        raise UsageError(f"no folder or image {root}: give what to label as --test-data-root=DIR or FILE")
    if not paths:
        raise UsageError(f"{root} holds no images: give what to label as --test-data-root=DIR or FILE")
    count = Counter(int(p.stem) for p in paths if _is_number(p, folder))
    alone = {p for p in paths if _is_number(p, folder) and count[int(p.stem)] == 1}  # not 1.jpg beside 1.png
    numbered = sorted((int(p.stem), p) for p in alone)
    named = sorted((p.relative_to(folder).as_posix(), p) for p in paths if p not in alone)
    return [(str(number), path) for number, path in numbered] + named


def _is_number(path: Path, folder: Path) -> bool:
    return path.parent == folder and path.stem.isascii() and path.stem.isdigit()


class Unlabelled(ImageData):
    """Any images, in one folder or in sub-folders, without labels: for GANs."""

    layout = "four images or more"
    mean, std, min_crop = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0
    image_size, val_part = 96, 0.1

    def scan(self, root: Path) -> tuple[list[str], Items]:
        return ["image"], sorted((path, 0) for path in files_below(root) if is_image(path))

    def split(self, val_fraction: float | None, seed: int) -> tuple[Items, Items]:
        """At least two images are for validation: what is eval_model is how they differ."""
        return super().split(max(val_fraction or self.val_part, 2 / len(self.items)), seed)

    @classmethod
    def matches(cls, root: Path) -> bool:
        return False  # every folder of images would

    @staticmethod
    def _usable(classes: list[str], items: Items) -> bool:
        return len(items) >= 4
