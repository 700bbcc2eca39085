"""Any images sorted into one folder a class."""

from pathlib import Path

from data.image_data import ImageData, Items, first_files, is_image


class Folder(ImageData):
    """Images sorted into one folder a class: `ROOT/<class>/*.jpg`; classes in alphabetical order.

    The layout of torchvision's ImageFolder. Sub-folders of a class count, files beside the class folders do not.
    """

    layout = "one folder a class, with two images or more in each"

    @classmethod
    def fits(cls, root: Path) -> bool:
        folders = [path for path in first_files(root) if path.is_dir()]
        return sum(any(map(is_image, first_files(folder))) for folder in folders) > 1

    def scan(self, root: Path) -> tuple[list[str], Items]:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        files = {folder.name: sorted(p for p in folder.rglob("*") if is_image(p) and p.is_file()) for folder in folders}
        classes = [name for name, paths in files.items() if paths]
        return classes, [(path, label) for label, name in enumerate(classes) for path in files[name]]
