"""Random layouts of folders, of which the truth is known: classes are found or refused, and no file vanishes.

FUZZ_CASES and FUZZ_SEED in the environment make it longer, and another one.
"""

import os
import random
import shutil
from pathlib import Path

import pytest
from conftest import picture

import data
from data.image_data import ImageData
from data.listing import find_unlabelled
from utils.errors import UsageError

pytestmark = pytest.mark.slow

CASES, SEED = int(os.environ.get("FUZZ_CASES", "120")), int(os.environ.get("FUZZ_SEED", "0"))
CLASSES = ["cat", "dog", "bird", "01", "猫", "two words", "a.b", "Train station", "latest", "train", "test", "validate"]
TRAIN = ["train", "Training", "TRAIN", "training_set", "train-images"]
OTHER = {"val": ["val", "Valid", "validation", "dev", "eval"], "test": ["test", "Testing", "test_set", "test1"]}
HIDDEN = [".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trash-0"]
BESIDE = ["plots", "preds", "samples", "docs"]


class Tree:
    """A folder that is filled at random, and what should be found in it."""

    def __init__(self, rng: random.Random, root: Path, image: Path) -> None:
        self.rng, self.root, self.image = rng, root, image
        self.visible: set[Path] = set()  # every file that may be left out, and must not be forgotten

    def add_image(self, folder: Path, seen: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.rng.randrange(10**6)}{self.rng.choice(['.png', '.PNG', '.jpg', '', '.jfif'])}"
        shutil.copy(self.image, path)
        if seen:
            self.visible.add(path)
        return path

    def fill(self, folder: Path) -> set[Path]:
        """Images of one class: in the folder, below it, through a link; with junk around. Returns the images."""
        rng, images = self.rng, set()
        for _ in range(rng.randrange(2, 5)):
            images.add(self.add_image(folder / rng.choice(["", "", "sub", "sub/deeper"])))
        if rng.random() < 0.3:
            self.add_image(folder / rng.choice(HIDDEN), seen=False)
        if rng.random() < 0.3:
            path = folder / rng.choice(["notes.txt", "labels.csv", "a.json"])
            path.write_text("x")
            self.visible.add(path)
        if rng.random() < 0.2:
            (folder / "loop").symlink_to(folder)
        if rng.random() < 0.2:
            (folder / "gone.png").symlink_to("nowhere")
        if rng.random() < 0.2:
            linked = self.root.parent / f"elsewhere{rng.randrange(10**6)}"
            name = self.add_image(linked, seen=False).name
            (folder / "linked").symlink_to(linked)
            self.visible.add(folder / "linked" / name)
            images.add(folder / "linked" / name)
        return images


def parts(tree: Tree) -> dict[str, dict[str, set[Path]]]:
    """{part: {class: images}} of a set with parts, and things beside them that are neither."""
    rng = tree.rng
    classes = rng.sample(CLASSES[:9], rng.randrange(2, 5))
    folders = {"train": rng.choice(TRAIN)}
    for part in rng.sample(["val", "test"], rng.randrange(1, 3)):
        folders[part] = rng.choice(OTHER[part])
    made = {part: {name: tree.fill(tree.root / folder / name) for name in classes} for part, folder in folders.items()}
    for folder in folders.values():
        if rng.random() < 0.4:
            tree.add_image(tree.root / folder)
    for name in rng.sample(BESIDE, rng.randrange(3)):
        tree.add_image(tree.root / name)
    for name in rng.sample(HIDDEN, rng.randrange(3)):
        tree.add_image(tree.root / name / "cat", seen=False)
    if rng.random() < 0.4:
        tree.add_image(tree.root)
    return made


def classes(tree: Tree) -> dict[str, dict[str, set[Path]]]:
    """The same of a set without parts, one of whose classes may have the name of one."""
    rng = tree.rng
    names = {*rng.sample(CLASSES[:9], rng.randrange(2, 5)), *rng.sample(CLASSES[9:], rng.randrange(2))}
    made = {}
    for name in sorted(names):
        folder = tree.root / name
        made[name] = {tree.add_image(folder) for _ in range(2)} if name in CLASSES[9:] else tree.fill(folder)
    if rng.random() < 0.4:
        tree.add_image(tree.root)
    return {"train": made}


def found(dataset: ImageData, items: list) -> dict[str, set[Path]]:
    return {name: {path for path, label in items if label == k} for k, name in enumerate(dataset.classes)}


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    return picture(tmp_path_factory.mktemp("image") / "a.png")


@pytest.mark.parametrize("kind", [parts, classes])
def test_layouts_whose_truth_is_known(kind, image, tmp_path):
    for number in range(CASES // 3):
        tree = Tree(random.Random(f"{SEED}/{kind.__name__}/{number}"), tmp_path / str(number) / "root", image)
        truth = kind(tree)
        dataset = data.open("Folder", tree.root)
        train, val, test = truth["train"], truth.get("val") or truth.get("test"), truth.get("test")
        assert found(dataset, dataset.items) == train, number
        assert not val and not dataset.val_items or found(dataset, dataset.val_items) == val, number
        assert not test and not dataset.test_items or found(dataset, dataset.test_items) == test, number
        taken = {path for path, _ in dataset.items + dataset.val_items + dataset.test_items}
        assert taken | set(dataset.left_out()) == tree.visible and not taken & set(dataset.left_out()), number
        labelled, others = find_unlabelled(tree.root)
        assert {path.resolve() for path in [path for _, path in labelled] + others} == {
            p.resolve() for p in tree.visible
        }
        assert len({name for name, _ in labelled}) == len(labelled)


def test_any_layout_is_read_or_refused_in_one_line(image, tmp_path):
    names = [*CLASSES, *TRAIN, *OTHER["val"], *OTHER["test"], *HIDDEN, *BESIDE]
    for number in range(CASES // 3):
        rng = random.Random(f"{SEED}/{number}")
        tree = Tree(rng, tmp_path / str(number) / "root", image)
        tree.root.mkdir(parents=True)
        for _ in range(rng.randrange(1, 9)):
            tree.add_image(tree.root.joinpath(*rng.choices(names, k=rng.randrange(4))), seen=False)
        if rng.random() < 0.2:
            (tree.root / "empty").mkdir()
        for name in ("Folder", "ClassFolder", "Unlabelled", "DogCat"):
            try:
                dataset = data.open(name, tree.root)
            except UsageError as e:
                assert str(e).isprintable() and len(str(e)) < 1200
                continue
            items = dataset.items + dataset.val_items
            assert len({path for path, _ in items}) == len(items) > 0
            assert all(0 <= label < len(dataset.classes) for _, label in items)
            assert str(dataset.summary(32)).isprintable()
