"""The demo pictures: their files, and that only shape tells the classes apart."""

import subprocess
import sys
from pathlib import Path
from random import Random
from statistics import mean

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from torch.nn.functional import cross_entropy

from data.demo import drawing


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def pixels(kind: str, count: int, side: int = 32) -> torch.Tensor:
    """(count, side * side * 3) in [0, 1], of the centre squares."""
    rows = []
    for num in range(count):
        image = drawing.draw(kind, Random(f"{kind}/{num}"))
        left, top = ((length - min(image.size)) // 2 for length in image.size)
        square = image.crop((left, top, left + min(image.size), top + min(image.size)))
        levels = bytearray(square.resize((side, side)).tobytes())
        rows.append(torch.frombuffer(levels, dtype=torch.uint8) / 255)
    return torch.stack(rows)


def unlike(one: Image.Image, other: Image.Image) -> float:
    """The share of the pixels in which two pictures differ clearly."""
    counts = ImageChops.difference(one, other).convert("L").histogram()
    return sum(counts[16:]) / sum(counts)


def fit_linear(x: torch.Tensor, y: torch.Tensor, decay: float) -> torch.Tensor:
    """The weights (features, 2) of a logistic regression with L2 `decay`."""
    weight = torch.zeros(x.shape[1], 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = cross_entropy(x @ weight, y) + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach()


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        drawing.write(tmp_path / name, seed=seed, train_per_class=3, test=4)
    first, again, other = (files(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert set(first) == set(other)
    assert all(first[name] != other[name] for name in first)
    assert len(set(first.values())) == len(first)


def test_a_picture_does_not_depend_on_how_many_are_drawn(tmp_path):
    drawing.write(tmp_path / "few", train_per_class=2, test=3)
    drawing.write(tmp_path / "many", train_per_class=5, test=8)
    assert files(tmp_path / "few").items() <= files(tmp_path / "many").items()


def test_layout_is_that_of_kaggle(tmp_path):
    root = tmp_path / "new" / "demo"  # its parent is made too
    drawing.write(root, train_per_class=12, test=6)
    names = {f"train/{kind}.{num}.jpg" for kind in ("cat", "dog") for num in range(12)}
    names |= {f"test1/{num}.jpg" for num in range(1, 7)}
    assert set(files(root)) == names
    assert [path.name for path in root.parent.iterdir()] == ["demo"]
    sizes = set()
    for path in root.rglob("*.jpg"):
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert min(image.size) >= 90 and max(image.size) <= 320
            sizes.add(image.size)
    assert len(sizes) > 25
    assert any(width > height for width, height in sizes) and any(width < height for width, height in sizes)


def test_test_part_is_half_cats_half_dogs_in_random_order(tmp_path, monkeypatch):
    drawn, draw = [], drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda kind, rng: drawn.append(kind) or draw(kind, rng))
    drawing.write(tmp_path / "demo", train_per_class=0, test=30)
    assert drawn.count("cat") == drawn.count("dog") == 15
    assert {tuple(drawn[i : i + 2]) for i in range(0, 30, 2)} == {("cat", "dog"), ("dog", "cat")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing_and_the_next_is_whole(tmp_path, monkeypatch, error):
    drawn, draw = [], drawing.draw

    def fails_at_the_fifth(kind, rng):
        drawn.append(kind)
        if len(drawn) == 5:
            raise error
        return draw(kind, rng)

    monkeypatch.setattr(drawing, "draw", fails_at_the_fifth)
    with pytest.raises(error):
        drawing.write(tmp_path / "demo", train_per_class=4, test=2)
    assert len(drawn) == 5 and list(tmp_path.iterdir()) == []
    drawing.write(tmp_path / "demo", train_per_class=4, test=2)
    assert len(files(tmp_path / "demo")) == 10


def test_a_set_that_is_there_is_left_alone(tmp_path, monkeypatch):
    drawing.write(tmp_path / "demo", train_per_class=1, test=1)
    before = files(tmp_path / "demo")
    monkeypatch.setattr(drawing, "draw", None)
    drawing.write(tmp_path / "demo", seed=1, train_per_class=2, test=2)
    assert files(tmp_path / "demo") == before


def test_other_files_in_the_folder_are_kept(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("keep")
    drawing.write(tmp_path / "demo", train_per_class=1, test=1)
    written = files(tmp_path / "demo")
    assert written.pop("mine.txt") == b"keep" and set(written) == {
        "train/cat.0.jpg",
        "train/dog.0.jpg",
        "test1/1.jpg",
    }


def test_a_file_in_the_way_is_an_error_and_is_kept(tmp_path):
    (tmp_path / "demo").write_text("keep")
    with pytest.raises(FileExistsError):
        drawing.write(tmp_path / "demo", train_per_class=1, test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"] and (tmp_path / "demo").read_text() == "keep"


def test_another_process_that_is_first_wins_and_both_end_well(tmp_path, monkeypatch):
    root, draw, entered = tmp_path / "demo", drawing.draw, []

    def while_another_writes(kind, rng):
        if not entered:
            entered.append(kind)
            drawing.write(root, train_per_class=2, test=2)  # whole before this run is
        return draw(kind, rng)

    monkeypatch.setattr(drawing, "draw", while_another_writes)
    drawing.write(root, train_per_class=2, test=2)
    assert entered and len(files(root)) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_drawing_needs_neither_torch_nor_numpy():
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print({'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code, drawing.__file__], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


def test_cat_and_dog_of_the_same_lot_differ_in_little_but_shape():
    differences, changed = [], []
    for num in range(60):
        cat, dog = (drawing.draw(kind, Random(num)) for kind in drawing.KINDS)
        assert cat.size == dog.size
        means = (ImageStat.Stat(image).mean for image in (cat, dog))
        differences.append([a - b for a, b in zip(*means, strict=True)])
        changed.append(unlike(cat, dog))
    assert all(abs(mean(channel)) < 3 for channel in zip(*differences, strict=True))  # levels of 255
    assert 0.05 < mean(changed) < 0.35


def test_heads_of_cats_and_dogs_cover_the_same_area(monkeypatch):
    heads = {kind: [drawing.draw(kind, Random(num)) for num in range(60)] for kind in drawing.KINDS}
    for kind in drawing.KINDS:
        monkeypatch.setattr(drawing, f"draw_{kind}", lambda pen, look: None)
    area = {}
    for kind, images in heads.items():
        area[kind] = mean(unlike(image, drawing.draw(kind, Random(num))) for num, image in enumerate(images))
    assert area["cat"] == pytest.approx(area["dog"], rel=0.1)
    assert 0.1 < area["cat"] < 0.4


@pytest.mark.slow
def test_a_linear_model_on_pixels_learns_by_heart_but_does_not_generalise():
    count, val_items = 200, 60
    x = torch.cat([pixels(kind, count) for kind in drawing.KINDS])
    y = torch.arange(2).repeat_interleave(count)
    val = torch.arange(2 * count) % count < val_items
    x = (x - x[~val].mean(0)) / x[~val].std(0)
    for decay in (1e-3, 1e-1):
        right = (x @ fit_linear(x[~val], y[~val], decay)).argmax(1) == y
        assert right[~val].float().mean() > 0.9  # so the fit works, and the next line says something
        assert right[val].float().mean() < 0.65
