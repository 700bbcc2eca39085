"""Images sorted into folders by what is predicted of them."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from runs.predictions import Prediction
from utils import files
from utils.errors import UsageError

UNSURE = "unsure"


class Sorted:
    """A folder with one for each class, and one for those that are not sure: links to the images, or copies.

    Args:
        unsure_below: the probability below which an image is not sure; None: all are.
        copies: copy; else link, where the file system can, and but for images of archives.

    Raises:
        UsageError: the folder is not empty, or a class has the name of the pile.
    """

    def __init__(self, folder: Path, classes: Sequence[str], unsure_below: float | None, copies: bool) -> None:
        self.folder, self.classes, self.copies = folder, classes, copies
        self.unsure_below = unsure_below or 0.0
        if UNSURE in classes and unsure_below is not None:
            raise UsageError(f"a class is called {UNSURE}, as the pile of --unsure-below would be: leave that out")
        files.check_writable(folder, "--sort-into", folder=True)
        if os.path.isdir(folder) and any(folder.iterdir()):
            raise UsageError(f"--sort-into={folder} is not empty: give a new folder, or remove this one")

    def add(self, prediction: Prediction) -> None:
        """One image, under its path below what was named; a further one of the same name gets a number."""
        source = prediction.source
        sure = prediction.confidence >= self.unsure_below
        pile = self.classes[prediction.label].replace(os.sep, "_") if sure else UNSURE
        target = self.folder / pile / source.below
        with files.disk_errors_as_failure(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            number = 1
            while os.path.lexists(target):
                number += 1
                target = target.with_name(f"{source.below.stem}-{number}{target.suffix}")
            if source.member is not None:
                target.write_bytes(source.read_bytes())
            elif self.copies:
                shutil.copyfile(source.path, target)
            else:
                try:
                    target.symlink_to(os.path.abspath(source.path))
                except OSError:
                    shutil.copyfile(source.path, target)
