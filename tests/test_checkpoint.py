"""Checkpoints: written whole or not at all, read safely, refused in one line."""

import os
import pickle

import pytest
import torch
from torch import nn

import models
from utils import checkpoints, files
from utils.errors import UsageError


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pth"
    checkpoints.write({"net": {"w": torch.ones(3)}}, path)
    before = path.read_bytes()

    class Bad:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.write({"net": Bad()}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_whole_respects_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with files.atomic_write(tmp_path / "a.txt") as file:
            file.write("é\n")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_cut_file_is_named(kept, tmp_path):
    path = tmp_path / "a.pth"
    checkpoints.write({"net": nn.Linear(50, 50).state_dict()}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UsageError) as error:
        checkpoints.read(path)
    assert "a.pth" in str(error.value) and "\n" not in str(error.value)


def test_a_flipped_byte_in_a_tensor_is_found(tmp_path):
    path = tmp_path / "a.pth"
    checkpoints.write({"net": {"w": torch.full((1000,), 1.5)}}, path)
    content = bytearray(path.read_bytes())
    content[content.find(torch.full((10,), 1.5).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        checkpoints.read(path)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    for name, save in (("a.pth", torch.save), ("b.pth", lambda x, p: p.write_bytes(pickle.dumps(x, 2)))):
        save({"net": Evil()}, tmp_path / name)
        with pytest.raises(UsageError, match="refused|damaged"):
            checkpoints.read(tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def test_other_content_and_newer_formats(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="holds a list"):
        checkpoints.read(tmp_path / "list.pth")
    torch.save({"format": 999, "net": {}}, tmp_path / "new.pth")
    with pytest.raises(UsageError, match="newer version"):
        checkpoints.read(tmp_path / "new.pth")


def test_find(tmp_path):
    with pytest.raises(UsageError, match="neither best.pth nor last.pth"):
        checkpoints.find(tmp_path)
    for number, run in enumerate(("a", "b")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "last.pth").touch()
        os.utime(tmp_path / run / "last.pth", (number, number))
    assert checkpoints.find(tmp_path / "a") == tmp_path / "a" / "last.pth"
    (tmp_path / "a" / "best.pth").touch()
    assert checkpoints.find(tmp_path / "a") == tmp_path / "a" / "best.pth"
    assert checkpoints.find("last", tmp_path) == tmp_path / "b" / "last.pth"


def test_link_replaces_and_does_not_follow(tmp_path):
    last, best = tmp_path / "last.pth", tmp_path / "best.pth"
    for number in range(2):
        checkpoints.write({"net": {"w": torch.tensor(float(number))}}, last)
        checkpoints.link(last, best)
    checkpoints.write({"net": {"w": torch.tensor(2.0)}}, last)
    assert checkpoints.read(best)["net"]["w"] == 1 and checkpoints.read(last)["net"]["w"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pth", "last.pth"]


def test_another_model_or_class_count_names_both(tmp_path):
    path = models.ResNet34(num_classes=2).save(tmp_path / "a.pth")
    with pytest.raises(UsageError, match="holds ResNet34 with 2 classes; this is SqueezeNet with 2 classes"):
        models.SqueezeNet(num_classes=2).load(path)
    with pytest.raises(UsageError, match="holds ResNet34 with 2 classes; this is ResNet34 with 5 classes"):
        models.ResNet34(num_classes=5).load(path)
