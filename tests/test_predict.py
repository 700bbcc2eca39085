"""predict: labels of images wherever they are, as they come; sorted, shown, and by several nets together."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, train_in

from data import listing
from data.sources import Sources
from data.stream import Stream
from data.transforms import Preprocess
from runs.sorting import Sorted
from utils.errors import UsageError


@pytest.fixture
def predict(command, tiny_run):
    """Runs `predict` with the tiny run; returns ([row], stderr)."""

    def run(*words: str, path: object = tiny_run) -> tuple[list[dict], str]:
        code, out, err = command("predict", f"--load-path={path}", *words)
        assert code == 0, err
        rows = list(csv.DictReader(io.StringIO(out))) if "--json" not in words else map(json.loads, out.splitlines())
        return list(rows), err

    return run


@pytest.fixture(scope="module")
def second_run(dogcat, tmp_path_factory) -> Path:
    return train_in(tmp_path_factory.mktemp("second"), f"--train-data-root={dogcat}/train", "--model=LeNet")


@pytest.fixture(scope="module")
def of_another_split(dogcat, tmp_path_factory) -> Path:
    return train_in(tmp_path_factory.mktemp("other"), f"--train-data-root={dogcat}/train", "--seed=7")


def probabilities_of(command, run: object, images: Path, file: Path) -> dict[str, float]:
    """Those of the second class, as `test` writes them."""
    code, _, err = command("test", f"--load-path={run}", f"--test-data-root={images}", f"--result-file={file}")
    assert code == 0, err
    return {row["id"]: float(row["label"]) for row in csv.DictReader(file.open())}


# ---- where images come from


def test_a_folder_gives_what_test_gives(predict, tiny_run, dogcat, command, tmp_path):
    rows, err = predict(f"{dogcat}/test1")
    expected = probabilities_of(command, tiny_run, dogcat / "test1", tmp_path / "r.csv")
    assert len(rows) == len(expected) == 10 and err.startswith("10 images: ")
    for row in rows:
        dog = expected[Path(row["image"]).stem]
        assert row["predicted"] == ("dog" if dog > 0.5 else "cat")
        assert float(row["probability"]) == pytest.approx(max(dog, 1 - dog), abs=1e-6)
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)


def test_files_patterns_archives_and_names_mean_the_same(predict, dogcat, tmp_path, monkeypatch):
    folder = dogcat / "test1"
    expected = [(row["predicted"], row["probability"]) for row in predict(str(folder))[0]]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"deep/{path.name}")
        archive.writestr("readme.txt", "no image")
    ways = [[str(path) for path in sorted(folder.iterdir())], [f"{folder}/*.jpg"], [f"{tmp_path}/all.zip"], ["-"]]
    for words in ways:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in sorted(folder.iterdir()))))
        rows, err = predict(*words)
        assert [(row["predicted"], row["probability"]) for row in rows] == expected, words
        assert ("1 file left out as no images: .txt 1" in err) == ("zip" in words[0])
    rows, _ = predict(*ways[0], "--num-workers=2", "--batch-size=3")
    assert [row["image"] for row in rows] == ways[0]
    assert [row["predicted"] for row in rows] == [label for label, _ in expected]


def test_wrong_files_are_named_and_not_fatal(predict, dogcat, command, tiny_run, tmp_path):
    shutil.copytree(dogcat / "test1", tmp_path / "in")
    (tmp_path / "in" / "3.jpg").write_bytes(b"no image")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    for workers in ("--num-workers=0", "--num-workers=2"):
        rows, err = predict(f"{tmp_path}/in", f"{tmp_path}/in/notes.txt", workers)
        assert len(rows) == 9 and "3.jpg" not in {Path(row["image"]).name for row in rows}
        lines = [line for line in err.splitlines() if line.startswith("no row: ")]
        assert len(lines) == 2 and "3.jpg cannot be read" in lines[0] and "notes.txt cannot be read" in lines[1]
        assert "9 images" in err and "2 cannot be read" in err and "left out as no images: .txt 1" in err
    code, out, err = command("predict", f"--load-path={tiny_run}", f"{tmp_path}/in/3.jpg")
    assert code == 2 and "no image can be read" in err and "Traceback" not in err


def test_files_that_are_no_images_are_counted_however_many(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number in range(1234):
            archive.writestr(f"{number:04d}.txt", "")
        archive.writestr("none", "")
    sources = Sources([str(tmp_path / "all.zip")])
    told = "1235 files left out as no images: .txt 1234, without an ending 1, as 0000.txt"
    assert not list(sources) and sources.left_out() == told


def test_a_member_of_an_archive_is_not_judged_by_a_file_of_its_name_outside(dogcat, tmp_path, monkeypatch):
    shutil.copy(next((dogcat / "test1").iterdir()), tmp_path / "x.unknown")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("x.unknown", "no image")
    monkeypatch.chdir(tmp_path)
    sources = Sources([str(tmp_path / "all.zip")])
    assert not list(sources) and sources.left_out() == "1 file left out as no images: .unknown 1, as x.unknown"
    assert [source.name for source in Sources(["."])] == ["x.unknown"]  # a file is, by what is in it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name images"),
        (["nowhere"], "there is no file or folder nowhere"),
        (["nothing*.jpg"], "there is no file or folder nothing*.jpg"),
        (["{dogcat}/test1", "--top-k=0"], "--top-k takes int >= 1"),
        (["{dogcat}/test1", "--unsure-below=0.5"], "--unsure-below has no effect"),
        (["{dogcat}/test1", "--copies"], "--copies has no effect"),
        (["{dogcat}/test1", "--least-sure=page.png"], "give a name that ends in .html"),
        (["{dogcat}/test1", "--sort-into={dogcat}"], "is not empty"),
        (["{dogcat}/test1", "--topk=3"], "Did you mean top_k?"),
        (["{tmp}/bad.zip"], "bad.zip is damaged, or no zip archive"),
        (["{tmp}/bad.zip", "--watch-folder"], "--watch-folder takes folders"),
        (["{tmp}/empty"], "there is no image in what was named"),
    ],
)
def test_wrong_words_are_one_line(words, said, command, tiny_run, dogcat, tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    given = [word.format(dogcat=dogcat, tmp=tmp_path) for word in words]
    code, _, err = command("predict", f"--load-path={tiny_run}", *given)
    assert code == 2 and said in err and err.count("\n") == 1, err


def test_a_folder_of_any_size_is_never_in_memory_as_a_whole(dogcat, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "BLOCK", 8)
    image = next((dogcat / "test1").iterdir())
    for number in range(60):
        (tmp_path / f"{number:02d}.jpg").symlink_to(image)
    listed: list[str] = []
    scandir = os.scandir

    class Counted:
        """A folder's entries, which notes those that have been asked for."""

        def __init__(self, folder: object) -> None:
            self.entries = scandir(folder)

        def __enter__(self) -> "Counted":
            return self

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                listed.append(entry.name)
                yield entry

    monkeypatch.setattr(os, "scandir", Counted)
    stream = Stream(Sources([str(tmp_path)]), Preprocess(16), batch_size=4)
    seen = 0
    for batch in stream:
        seen += len(stream.take(batch))
        assert len(listed) <= seen + 2 * 8 and not stream.batches.pending
    assert seen == 60


def test_lines_come_while_names_are_still_awaited(tiny_run, dogcat):
    image = next((dogcat / "test1").iterdir())
    words = [f"--load-path={tiny_run}", "-", "--batch-size=2", "--num-workers=0"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "predict", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process.stdin.write(f"{image}\n{image}\n")
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(3)]
    assert process.poll() is None and lines[0].startswith("image,") and lines[2].startswith(str(image))
    process.stdin.close()
    assert process.stdout.read() == "" and process.wait(60) == 0


def test_a_watched_folder_is_labelled_as_images_arrive(tiny_run, dogcat, tmp_path):
    images = sorted((dogcat / "test1").iterdir())
    (tmp_path / "in").mkdir()
    shutil.copy(images[0], tmp_path / "in" / "a.jpg")
    words = [f"--load-path={tiny_run}", f"{tmp_path}/in", "--watch-folder"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "predict", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[1].startswith(f"{tmp_path}/in/a.jpg,")
    shutil.copy(images[1], tmp_path / "in" / "b.jpg")
    assert process.stdout.readline().startswith(f"{tmp_path}/in/b.jpg,")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not out and "Traceback" not in err, err


# ---- what is said


def test_top_k_and_json(predict, folders, tmp_path):
    run = train_in(tmp_path, f"--train-data-root={folders}", "--dataset=ClassFolder")
    rows, _ = predict(f"{folders}/cat", "--top-k=2", path=run)
    assert list(rows[0]) == ["image", "predicted", "probability", "predicted_2", "probability_2"]
    told, _ = predict(f"{folders}/cat", "--top-k=9", "--json", path=run)
    assert len(told) == len(rows) == 12
    for line, row in zip(told, rows, strict=True):
        assert line["image"] == row["image"] and len(line["top"]) == 3
        odds = [one["probability"] for one in line["top"]]
        assert sum(odds) == pytest.approx(1) and odds == sorted(odds, reverse=True)
        assert line["top"][0]["class"] == row["predicted"] and line["top"][1]["class"] == row["predicted_2"]


def test_images_are_sorted_by_class_and_the_unsure_aside(predict, dogcat, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for path in sorted((dogcat / "test1").iterdir()):
        shutil.copy(path, tmp_path / "in" / "deep" / path.name)
    rows, _ = predict(f"{tmp_path}/in", f"--sort-into={tmp_path}/out", "--unsure-below=0.5001")
    odds = sorted(float(row["probability"]) for row in rows)
    median = (odds[4] + odds[5]) / 2
    rows, _ = predict(f"{tmp_path}/in", f"--sort-into={tmp_path}/two", f"--unsure-below={median}")
    unsure = 0
    for row in rows:
        sure = float(row["probability"]) >= median
        unsure += not sure
        below = Path(row["image"]).relative_to(tmp_path / "in")
        target = tmp_path / "two" / (row["predicted"] if sure else "unsure") / below
        assert target.is_symlink() and target.resolve() == Path(row["image"]).resolve()
    assert 0 < unsure < 10 and sum(path.is_symlink() for path in (tmp_path / "two").rglob("*.jpg")) == 10


def test_copies_and_images_of_an_archive_are_files_and_names_do_not_clash(predict, dogcat, tmp_path):
    paths = sorted((dogcat / "test1").iterdir())
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(paths[0], f"../../{paths[0].name}")  # leads out of the folder
    predict(str(paths[0]), f"{tmp_path}/x.zip", f"--sort-into={tmp_path}/out", "--copies")
    found = sorted((tmp_path / "out").rglob("*.jpg"))
    assert sorted(path.name for path in found) == [f"{paths[0].stem}-2.jpg", paths[0].name]
    assert all(path.is_file() and not path.is_symlink() for path in found)
    assert all(path.read_bytes() == paths[0].read_bytes() for path in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.zip"]


def test_a_class_called_as_the_pile_is_refused(tmp_path):
    with pytest.raises(UsageError, match="a class is called unsure"):
        Sorted(tmp_path / "out", ["sure", "unsure"], 0.5, False)
    Sorted(tmp_path / "out", ["sure", "unsure"], None, False)


def test_the_page_shows_the_least_sure(predict, dogcat, tmp_path, monkeypatch):
    from report import least_sure

    monkeypatch.setattr(least_sure, "MOST", 3)
    rows, _ = predict(f"{dogcat}/test1", f"--least-sure={tmp_path}/page.html")
    page = (tmp_path / "page.html").read_text()
    rows.sort(key=lambda row: float(row["probability"]))
    places = [page.find(Path(row["image"]).name + "<") for row in rows]
    assert page.count("<figure>") == 3 and "The least sure of 10 images" in page
    assert -1 not in places[:3] and places[:3] == sorted(places[:3]) and set(places[3:]) == {-1}


# ---- several nets


def test_an_ensemble_is_the_mean_of_its_members(predict, tiny_run, second_run, dogcat, command, tmp_path):
    images, both = dogcat / "test1", f"{tiny_run},{second_run}"
    one, two = (probabilities_of(command, run, images, tmp_path / "r.csv") for run in (tiny_run, second_run))
    mean = {name: (one[name] + two[name]) / 2 for name in one}
    assert probabilities_of(command, both, images, tmp_path / "r.csv") == pytest.approx(mean, abs=1e-6)
    rows, _ = predict(str(images), path=both)
    for row in rows:
        dog = mean[Path(row["image"]).stem]
        assert float(row["probability"]) == pytest.approx(max(dog, 1 - dog), abs=1e-6)
    code, out, err = command("val", f"--load-path={both}")
    assert code == 0 and not err and out.startswith("the mean probabilities of 2 nets on "), err
    assert "written to" not in out


def test_an_ensemble_whose_members_saw_the_images_is_warned_of(tiny_run, of_another_split, command):
    code, _, err = command("val", f"--load-path={tiny_run},{of_another_split}")
    assert code == 0 and err.count("\n") == 1 and f"not those of the training of {of_another_split}" in err


def test_members_that_do_not_fit_are_refused(tiny_run, folders, dogcat, command, tmp_path):
    three = train_in(tmp_path / "three", f"--train-data-root={folders}", "--dataset=ClassFolder")
    larger = train_in(tmp_path / "larger", f"--train-data-root={dogcat}/train", "--image-size=40")
    for words, said in (
        (f"{tiny_run},{three}", "has the classes ['bird', 'cat', 'dog']"),
        (f"{tiny_run},{larger}", "reads images with image_size 40, and"),
        (f"{tiny_run},{tiny_run}", "names one checkpoint twice"),
        (f"{tiny_run},nowhere", "no checkpoint nowhere"),
    ):
        code, _, err = command("test", f"--load-path={words}", f"--test-data-root={dogcat}/test1")
        assert code == 2 and said in err and err.count("\n") == 1, err
    code, _, err = command("explain", f"--load-path={tiny_run},{larger}", f"{dogcat}/test1")
    assert code == 2 and "no checkpoint" in err
