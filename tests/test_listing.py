"""Which folders are classes, which files are images, and what is said of the rest: over layouts, names and endings."""

import csv
import os
import shutil
import unicodedata
from itertools import product
from pathlib import Path

import pytest
from conftest import TINY, picture, unless_given
from PIL import Image

import data
from data.folder import part_of
from data.listing import find_unlabelled, image_files, suffixes
from utils.errors import UsageError


def images(folder: Path, count: int = 3, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(folder / f"{i}{suffix}")


def layout(root: Path, *folders: str) -> Path:
    for folder in folders:
        images(root / folder)
    return root


# ---- parts of a set, or classes

TRAIN = ["train", "Train", "TRAINING", "training_set", "Training Set", "train-images", "trainset"]
VAL = ["val", "valid", "VALIDATION", "validation_set", "dev", "eval", "test", "Testing", "test_set", "evaluation"]
BESIDE = ["", "stray", "plots", "preds"]


@pytest.mark.parametrize(("train", "val"), [*product(TRAIN, ["val", "Testing"]), *product(["train", "Training"], VAL)])
@pytest.mark.parametrize("beside", BESIDE)
def test_parts_are_no_classes(train, val, beside, tmp_path):
    root = layout(tmp_path, *(f"{part}/{name}" for part in (train, val) for name in ("cat", "dog")))
    images(root / train / "cat" / "more", 1)
    if beside == "stray":
        picture(root / train / "stray.png")
        picture(root / val / "stray.png")
    elif beside:
        images(root / beside)
    found = data.open("Folder", root)
    assert found.classes == ["cat", "dog"] and len(found.items) == 7 and len(found.val_items) == 6
    assert {path.relative_to(root).parts[0] for path, _ in found.items} == {train}
    assert f"7 images in {train} for training, 6 in {val} for validation" in found.notes[0]


def test_train_val_and_test(tmp_path):
    names = [f"{part}/{name}" for part in ("train", "val", "test") for name in ("cat", "dog")]
    found = data.open("Folder", layout(tmp_path, *names))
    assert [len(part) for part in (found.items, found.val_items, found.test_items)] == [6, 6, 6]
    assert {path.parent.parent.name for path, _ in found.test_items} == {"test"}


def test_unlabelled_images_to_test_beside_the_classes_of_train(tmp_path):
    found = data.open("Folder", layout(tmp_path, "train/cat", "train/dog", "test1"))
    assert found.classes == ["cat", "dog"] and len(found.items) == 6 and not found.val_items
    assert len(found.left_out()) == 3 and "3 files left out (.png 3)" in found.summary(16)


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (["bus", "train", "tram"], ["bus", "train", "tram"]),  # vehicles
        (["bus/city", "bus/school", "tram", "train"], ["bus", "train", "tram"]),
        (["rose/leaf", "tulip/flower"], ["rose", "tulip"]),
        (["a/x", "a/y", "b/x", "b/z", "b/w"], ["a", "b"]),
        (["1", "2", "10"], ["1", "10", "2"]),
    ],
)
def test_classes_are_no_parts(folders, classes, tmp_path):
    assert data.open("Folder", layout(tmp_path, *folders)).classes == classes


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (
            ["train/cat", "train/dog", "plots"],
            ["classes cat, dog", "classes, plots, train", "--train-data-root={}/train"],
        ),
        (["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"], ["classes cat, dog", "classes, fold1, fold2"]),
        (["indoor/day", "indoor/night", "outdoor/day", "outdoor/night"], ["classes day, night", "indoor, outdoor"]),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused_with_both(folders, said, tmp_path):
    root = layout(tmp_path, *folders)
    with pytest.raises(UsageError) as caught:
        data.open("Folder", root)
    line = str(caught.value)
    assert "\n" not in line and all(words.format(root) in line for words in [*said, "--dataset=ClassFolder"])
    assert data.open("ClassFolder", root).classes == sorted({folder.split("/")[0] for folder in folders})


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["Training", "Testing"], "no class folders to learn from"),
        (["train", "test1"], "no class folders to learn from"),
        (["val/cat", "val/dog", "test/cat", "test/dog"], "no class folders to learn from"),
        (["train/a", "train/b", "training/a", "training/b"], "may be the same part"),
        (["train/a", "train/b", "val/a", "val/b", "dev/a", "dev/b"], "may be the same part"),
        (["train/a", "train/b", "val/a", "val/c"], "has the classes"),
    ],
)
def test_layouts_that_are_refused(folders, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        data.open("Folder", layout(tmp_path, *folders))


@pytest.mark.parametrize("name", ["retrain", "trains", "testament", "cat_train", "validator", "", "___", "set", "dog"])
def test_other_names_are_no_parts(name):
    assert part_of(name) is None


def test_the_first_line_of_a_training(folders, command, tmp_path):
    (folders / "bird" / "notes.txt").write_text("x")
    words = [
        *unless_given(TINY, ()),
        "--dataset=Folder",
        f"--train-data-root={folders}",
        f"--checkpoint-dir={tmp_path}",
    ]
    out = command("train", *words)[1]
    (folders / "bird" / "notes.txt").unlink()
    assert out.splitlines()[0] == (
        f"Folder in {folders}: 3 classes: bird 12, cat 12, dog 12; seen at 32 x 32 pixels; 1 file left out (.txt 1), "
        f"as {Path('bird', 'notes.txt')}"
    )


def test_many_classes_in_one_line(tmp_path):
    for k in range(30):
        images(tmp_path / f"c{k:02d}", 2 + k)
    assert "30 classes: c00 2, c01 3, c02 4, c03 5, c04 6, ... 2 to 31 images each" in data.open(
        "Folder", tmp_path
    ).summary(8)


# ---- what a folder holds

SETS = {"Folder": "cat/{}", "Unlabelled": "{}", "DogCat": "{}"}


def opened(name: str, root: Path) -> list[str]:
    found = data.open(name, root)
    return [path.relative_to(root).as_posix() for path, _ in found.items]


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", ".thumbnails", ".Trash-1000", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found"]
)
def test_hidden_folders_are_not_read(hidden, tmp_path):
    root = layout(tmp_path, "cat", "dog", f"cat/{hidden}", hidden, f"cat/deep/{hidden}")
    for name in ("Folder", "Unlabelled"):
        assert len(opened(name, root)) == 6
    assert len(find_unlabelled(root)[0]) == 6


def test_run_folders_inside_of_the_data_are_not_read(tiny_run, tmp_path):
    root = layout(tmp_path, "cat", "dog")
    shutil.copytree(tiny_run, root / "checkpoints" / "run")
    assert data.open("Folder", root).classes == ["cat", "dog"]
    assert len(find_unlabelled(root)[0]) == 6 == len(opened("Unlabelled", root))
    assert len(find_unlabelled(root / "checkpoints" / "run" / "samples")[0]) == 2


def test_hidden_files_are_not_read(tmp_path):
    root = layout(tmp_path, "cat", "dog")
    picture(root / "cat" / "._0.png")
    assert len(opened("Folder", root)) == 6 and len(find_unlabelled(root)[0]) == 6


def test_links_are_followed_once_around(tmp_path):
    root = layout(tmp_path / "root", "cat", "dog")
    images(tmp_path / "elsewhere" / "sub", 2)
    (root / "dog" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "up").symlink_to(root / "dog")
    (tmp_path / "elsewhere" / "self").symlink_to("self")
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "dog" / "pipe.png")
    found = data.open("Folder", root)
    assert found.classes == ["bird", "cat", "dog"]
    assert [sum(label == k for _, label in found.items) for k in range(3)] == [2, 3, 5]
    assert len(find_unlabelled(root)[0]) == 8 == len(opened("Unlabelled", root))  # the folder that is linked twice once


@pytest.mark.parametrize("name", ["Folder", "Unlabelled", "DogCat"])
def test_a_folder_that_cannot_be_read_is_named(name, tmp_path, monkeypatch):
    root = layout(tmp_path, "cat", "dog")
    shut = tmp_path if name == "DogCat" else tmp_path / "cat"
    scandir = os.scandir

    def refusing(path):
        if Path(path) == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match=f"{shut} cannot be read: Permission denied"):
        data.open(name, root)
    if name != "DogCat":
        with pytest.raises(UsageError, match="cannot be read: Permission denied"):
            find_unlabelled(root)


WRITTEN = {
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".tga": "TGA",
    ".JPG": "JPEG",
    ".apng": "PNG",
}
WRITTEN |= {
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".pbm": "PPM",
    ".dib": "DIB",
    ".pcx": "PCX",
    ".ico": "ICO",
    ".qoi": "QOI",
}


@pytest.mark.parametrize("ending", [*WRITTEN, "", ".jpeg_large", ".0001"])
def test_every_ending_that_pillow_reads_is_taken(ending, tmp_path):
    form = WRITTEN.get(ending, "PNG")
    if form not in (Image.init() or Image.SAVE):
        pytest.skip(f"this Pillow writes no {form}")
    layout(tmp_path, "cat", "dog")
    for name in ("cat", "dog"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name / f"odd{ending}", form)
    found = data.open("Folder", tmp_path)
    assert len(found.items) == 8 and not found.left_out()
    assert all(found[i][0].shape == (3, found.image_size, found.image_size) for i in range(8))
    assert len(find_unlabelled(tmp_path)[0]) == 8


def test_no_ending_of_other_files_is_taken():
    assert not suffixes() & {".h5", ".mpg", ".pdf", ".eps", ".txt", ".npy"}


def test_what_is_left_out_is_counted_and_named(tmp_path):
    root = layout(tmp_path, "cat", "dog")
    for name in ("a.heic", "b.heic", "c.txt", "d"):
        (root / "cat" / name).write_text("no image")
    found = data.open("Folder", root)
    assert "4 files left out (.heic 2, .txt 1, without an ending 1), as cat/a.heic" in found.summary(16)
    assert [path.name for path in find_unlabelled(root)[1]] == ["a.heic", "b.heic", "c.txt", "d"]


@pytest.mark.parametrize(("part", "where"), [("", "bird"), ("train/", "train/bird")])
def test_a_class_that_loses_all_its_images_is_an_error(part, where, tmp_path):
    root = layout(tmp_path, f"{part}cat", f"{part}dog", *(["val/cat", "val/dog"] if part else []))
    (root / where).mkdir()
    for i in range(3):
        (root / where / f"{i}.heic").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"bird has 3 files and no image that Pillow reads \(.heic 3\)"):
        data.open("Folder", root)
    for path in (root / where).iterdir():
        path.rename(path.with_suffix(".xml"))  # annotations
    assert data.open("Folder", root).classes == ["cat", "dog"]


def test_capitals_do_not_matter_to_dogs_and_cats(tmp_path):
    for name in ("cat.1.png", "Cat.11.PNG", "DOG.2.png", "dog.3.Png", "catalogue.1.png", "cat.png"):
        picture(tmp_path / name)
    found = data.open("DogCat", tmp_path)
    assert [(path.name, label) for path, label in found.items] == [
        ("Cat.11.PNG", 0),
        ("DOG.2.png", 1),
        ("cat.1.png", 0),
        ("dog.3.Png", 1),
    ]


# ---- names in Unicode

CAFE = "café"


def test_names_that_differ_only_in_how_unicode_writes_them(tmp_path):
    root = layout(tmp_path, unicodedata.normalize("NFC", CAFE), unicodedata.normalize("NFD", CAFE))
    with pytest.raises(UsageError, match="differ only in how Unicode"):
        data.open("Folder", root)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_parts_that_were_copied_from_another_system(forms, tmp_path):
    folders = [
        f"{part}/{unicodedata.normalize(form, CAFE)}" for part, form in zip(("train", "val"), forms, strict=True)
    ]
    found = data.open("Folder", layout(tmp_path, *folders, "train/tea", "val/tea"))
    assert found.classes == [unicodedata.normalize("NFC", CAFE), "tea"] and len(found.val_items) == 6


@pytest.mark.slow
def test_control_characters_in_names_never_reach_the_terminal(tmp_path, command):
    root = layout(tmp_path / "root", "a\x1b[31m", "b\nc", "d\x07")
    runs = f"--checkpoint-dir={tmp_path / 'runs'}"
    flags = [*unless_given(TINY, ("--max-epoch", "--vis-port")), "--dataset=Folder", f"--train-data-root={root}", runs]
    train = ["train", *flags, "--max-epoch=1", "--vis-port=None"]
    for words in (["check", *flags], train, ["val", "--load-path=last", runs]):
        code, out, err = command(*words)
        assert code == 0, err
        assert not any(c in out + err for c in "\x1b\x07") and r"a\x1b[31m" in out and r"b\nc" in out


# ---- images to label


def test_ids_and_their_order(tmp_path):
    for name in ("10.jpg", "9.jpg", "0001.jpg", "b10.jpg", "b9.jpg", "b.jpg"):
        picture(tmp_path / "one" / name) if (tmp_path / "one").mkdir(exist_ok=True) is None else None
    ids = [name for name, _ in find_unlabelled(tmp_path)[0]]  # one folder deeper, as an archive unpacks
    assert ids == ["0001", "9", "10", "b9.jpg", "b10.jpg", "b.jpg"]
    images(tmp_path / "two", 1)
    ids = [name for name, _ in find_unlabelled(tmp_path)[0]]
    assert ids == ["one/0001.jpg", "one/9.jpg", "one/10.jpg", "one/b9.jpg", "one/b10.jpg", "one/b.jpg", "two/0.png"]


def test_two_images_never_share_an_id(tmp_path):
    for folder in ("", "sub", "sub/deep"):
        images(tmp_path / folder, 2)
    ids = [name for name, _ in find_unlabelled(tmp_path)[0]]
    assert ids == ["0", "1", "sub/0.png", "sub/1.png", "sub/deep/0.png", "sub/deep/1.png"]


def test_a_folder_beside_the_images_that_cannot_be_read_is_named_before_the_training(dogcat, tmp_path, monkeypatch):
    root = shutil.copytree(dogcat / "train", tmp_path / "root")
    (root / "shut").mkdir()
    scandir = os.scandir

    def refusing(path):
        if Path(path) == root / "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match="shut cannot be read: Permission denied"):
        data.open("DogCat", root).summary(16)


def test_a_row_of_the_csv_for_every_file_name(tiny_run, command, tmp_path):
    images(tmp_path / "images", 2)
    names = ["a\rb.png", "a\nb.png", 'a"b.png', "a,b.png", " a.png", "é.png", "a\r\n.png"]
    for name in names:
        picture(tmp_path / "images" / name)
    result = tmp_path / "result.csv"
    words = ["test", f"--load-path={tiny_run}", f"--test-data-root={tmp_path}/images", f"--result-file={result}"]
    code, _, err = command(*words, "--num-workers=0")
    assert code == 0, err
    with result.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {"0", "1", *names} and all(0 <= float(row["label"]) <= 1 for row in rows)


def test_labelling_says_what_it_left_out(tiny_run, command, tmp_path):
    images(tmp_path / "images", 2)
    (tmp_path / "images" / "a.heic").write_bytes(b"x")
    code, out, _ = command(
        "test",
        f"--load-path={tiny_run}",
        f"--test-data-root={tmp_path}/images",
        f"--result-file={tmp_path}/r.csv",
        "--num-workers=0",
    )
    assert code == 0 and "1 file left out as no images: .heic 1, as" in out and "2 rows" in out


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "rows"), [("skip", ["1", "3"]), ("fill", ["1", "2", "3"])])
def test_an_unreadable_image_costs_its_row_and_no_other(flag, rows, tiny_run, command, tmp_path):
    for name in ("1", "2", "3"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "2.png").write_bytes(b"bad")
    result = tmp_path / "r.csv"
    words = ["test", f"--load-path={tiny_run}", f"--test-data-root={tmp_path}", f"--result-file={result}"]
    words.append("--num-workers=0")
    code, _, err = command(*words)
    assert code == 2 and "2.png cannot be read" in err and "--on-bad-image=fill" in err and not result.exists()
    code, out, err = command(*words, f"--on-bad-image={flag}")
    assert code == 0 and "2.png cannot be read" in out and f"{len(rows)} rows" in out, err
    with result.open() as file:
        labels = {row["id"]: float(row["label"]) for row in csv.DictReader(file)}
    assert list(labels) == rows and labels.get("2", 0.5) == 0.5 and labels["1"] == labels["3"] != 0.5


def test_filling_a_row_is_for_test(command, tmp_path):
    code, _, err = command("train", "--on-bad-image=fill", f"--train-data-root={tmp_path}")
    assert code == 2 and "--on-bad-image=fill is for test" in err


def test_image_files_are_sorted(tmp_path):
    layout(tmp_path, "b", "a/c", "a")
    assert image_files(tmp_path) == sorted(tmp_path.glob("**/*.png"))
