"""Kaggle's Dogs vs. Cats, the data set of the book's chapter 6."""

import re
from pathlib import Path

from data.image_data import ImageData, Items, first_files, image_files, is_image


class DogCat(ImageData):
    """Dogs vs. Cats: one folder of `cat.<num>.jpg` and `dog.<num>.jpg` (kaggle.com/c/dogs-vs-cats).

    Files with any other name are ignored; capitals do not matter. Labels: cat 0, dog 1.
    """

    class_names = ("cat", "dog")
    layout = "cat.<num>.jpg and dog.<num>.jpg, two of each or more"
    name_rule = re.compile(r"(cat|dog)\.\d+\.", re.IGNORECASE)

    @classmethod
    def matches(cls, root: Path) -> bool:
        return any(is_image(path) and cls.name_rule.match(path.name) for path in first_files(root))

    def scan(self, root: Path) -> tuple[list[str], Items]:
        classes = list(self.class_names)
        found = [(path, self.name_rule.match(path.name)) for path in image_files(root, recursive=False)]
        return classes, [(path, classes.index(match[1].lower())) for path, match in found if match]
