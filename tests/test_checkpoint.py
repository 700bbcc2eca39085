"""Checkpoints: written whole or not at all, read safely, refused in one line."""

import argparse
import os
import pickle

import pytest
import torch
from torch import nn

import models
from utils import checkpoints, files, state_dicts
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
        checkpoints.write({"metadata": {}, "net": {"w": torch.tensor(float(number))}}, last)
        checkpoints.link(last, best)
    checkpoints.write({"metadata": {}, "net": {"w": torch.tensor(2.0)}}, last)
    assert checkpoints.read(best)["net"]["w"] == 1 and checkpoints.read(last)["net"]["w"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pth", "last.pth"]


def test_another_model_or_class_count_names_both(tmp_path):
    path = models.ResNet34(num_classes=2).save(tmp_path / "a.pth")
    with pytest.raises(UsageError, match="holds ResNet34 with 2 classes; this is SqueezeNet with 2 classes"):
        models.SqueezeNet(num_classes=2).load(path)
    with pytest.raises(UsageError, match="holds ResNet34 with 2 classes; this is ResNet34 with 5 classes"):
        models.ResNet34(num_classes=5).load(path)


# ---- formats before, and files of other programs


def test_a_training_checkpoint_of_format_2_is_nested_by_owner(tmp_path):
    weights, learning = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    config = {"lr": 0.1, "nz": None}
    old = {
        "format": 2, "model": "ResNet34", "num_classes": 2, "classes": ["cat", "dog"], "images": {"train": 3, "val": 1},
        "preprocess": {"image_size": 32, "mean": [0.5], "std": [0.2]}, "machine": {"threads": 2}, "config": config,
        "net": weights, "optimizer": {"state": {}}, "scheduler": {"factor": 1.0},
        "learning_net": learning, "averaged": 7,
        "epoch": 3, "step": 9, "now": {"seen": 4}, "best_score": 0.75, "best_epoch": 2, "warned": True,
        "metrics": {"accuracy": 0.5, "score": 0.5, "loss": 1.5},
    }  # fmt: skip
    checkpoints.write(old, tmp_path / "a.pth")
    found = checkpoints.read(tmp_path / "a.pth")
    assert found["format"] == 3 and torch.equal(found["net"]["w"], weights["w"])
    names = ("model", "num_classes", "classes", "images", "preprocess", "machine", "config")
    assert {name: found["metadata"][name] for name in names} == {name: old[name] for name in names}
    assert found["metadata"]["task"] == "Classify"
    assert set(found["task"]) == {"optimizer", "scheduler", "learning_net", "ema_updates"}
    assert found["task"]["ema_updates"] == 7 and torch.equal(found["task"]["learning_net"]["w"], learning["w"])
    trainer = found["trainer"]
    assert (trainer["epoch"], trainer["step"], trainer["best_epoch"], trainer["warned"]) == (3, 9, 2, True)
    assert (trainer["progress"], trainer["best_value"]) == ({"seen": 4}, 0.75)
    assert trainer["metrics"] == {"accuracy": 0.5, "loss": 1.5}


def test_a_gan_of_format_2(tmp_path):
    old = {
        "format": 2, "model": "AnimeGAN", "num_classes": None, "classes": ["image"], "config": {"nz": 8, "ngf": None},
        "images": {"train": 3, "val": 1}, "preprocess": {"image_size": 32, "mean": [0.5], "std": [0.2]}, "machine": {},
        "net": {"w": torch.ones(2)}, "steps": 5, "generator_optimizer": {"a": 1}, "discriminator_optimizer": {"b": 2},
        "learning": {"w": torch.zeros(1)}, "averaged": 3,
        "epoch": 1, "step": 5, "best_score": -12.5, "best_epoch": 1, "metrics": {"distance": 12.5, "score": -12.5},
    }  # fmt: skip
    checkpoints.write(old, tmp_path / "a.pth")
    found = checkpoints.read(tmp_path / "a.pth")
    owned = {"steps", "generator_optimizer", "discriminator_optimizer", "learning_generator", "ema_updates"}
    assert set(found["task"]) == owned and (found["task"]["steps"], found["task"]["ema_updates"]) == (5, 3)
    assert found["metadata"]["task"] == "Gan" and found["metadata"]["config"] == {"nz": 8, "ngf": None}
    assert (found["trainer"]["best_value"], found["trainer"]["metrics"]) == (12.5, {"distance": 12.5})


def test_no_owner_overwrites_the_keys_of_another(tmp_path):
    parts = {"metadata": {"step": "a"}, "net": {"step": torch.ones(1)}, "task": {"step": "b"}}
    checkpoints.write(parts, tmp_path / "a.pth")
    found = checkpoints.read(tmp_path / "a.pth")
    assert [found[owner]["step"] for owner in ("metadata", "net", "task")] == ["a", torch.ones(1), "b"]


def test_weights_saved_by_a_net_before_and_now(tmp_path):
    net = models.LeNet(3)
    flat = {"format": 2, "model": "LeNet", "num_classes": 3, "net": net.state_dict()}
    checkpoints.write(flat, tmp_path / "flat.pth")
    for path in (tmp_path / "flat.pth", net.save(tmp_path / "nested.pth")):
        assert checkpoints.read(path)["metadata"] == {"model": "LeNet", "num_classes": 3}
        again = models.LeNet(3).load(path).state_dict()
        assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.items())


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: value for name, value in state.items()}


LAYOUTS = {
    "plain": (lambda state: state, ""),
    "state_dict": (lambda state: {"epoch": 3, "state_dict": state}, "took the entry 'state_dict'"),
    "Lightning": (
        lambda state: {
            "epoch": 3, "state_dict": prefixed(state, "model."), "loops": {"fit_loop": {"state_dict": {}}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": []}],
        },
        "took the entry 'state_dict', took off the prefix 'model.'",
    ),
    "timm": (
        lambda state: {
            "args": argparse.Namespace(lr=0.1), "state_dict": {k: v * 0 for k, v in state.items()},
            "optimizer": {"state": {}, "param_groups": []}, "state_dict_ema": state, "metric": 0.5,
        },
        "took the entry 'state_dict_ema', not 'state_dict'",
    ),
    "tutorial": (
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"a": torch.ones(1)}, "loss": 0.1},
        "took the entry 'model_state_dict'",
    ),
    "nested": (lambda state: {"model": {"net": state}, "epoch": 1}, "took the entry 'model' / 'net'"),
    "another name": (lambda state: {"lenet_weights": state, "epoch": 1}, "took the entry 'lenet_weights'"),
    "parallel, compiled": (lambda state: prefixed(state, "module._orig_mod."), "prefix 'module._orig_mod.'"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_other_programs_are_taken_off_and_named(layout, tmp_path, capsys):
    wrap, note = LAYOUTS[layout]
    net = models.LeNet(3)
    torch.save(wrap(net.state_dict()), tmp_path / "a.pth")
    again = models.LeNet(3).load(tmp_path / "a.pth").state_dict()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.items())
    told = capsys.readouterr().out
    assert note in told and ("a.pth" in told if note else told == "")


def test_a_prefix_that_the_net_has_itself_stays(tmp_path, capsys):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Linear(2, 2))

    net = Wrapped()
    for prefix, note in (("", ""), ("model.", "prefix 'model.'"), ("module.", "prefix 'module.'")):
        torch.save(prefixed(net.state_dict(), prefix), tmp_path / "a.pth")
        again = Wrapped()
        state_dicts.load_net(again, checkpoints.read(tmp_path / "a.pth"), tmp_path / "a.pth")
        assert torch.equal(again.model[0].weight, net.model[0].weight)
        told = capsys.readouterr().out
        assert note in told if note else told == ""


def test_what_holds_no_one_state_dict_is_refused(tmp_path):
    for content, message in (
        ({"one": {"w": torch.ones(1)}, "two": {"w": torch.ones(1)}}, "holds 2 state dicts, one, two: save the one"),
        ({"optimizer": {"w": torch.ones(1)}}, "its entry 'optimizer' is a dict"),
        ({"epoch": 3, "w": torch.ones(1)}, "its entry 'epoch' is a int"),
        ({}, "it is empty"),
    ):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(UsageError, match=message):
            checkpoints.read(tmp_path / "a.pth")


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    net = models.LeNet(3)
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    again = models.LeNet(3).load(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.items())
    content = (tmp_path / "a.safetensors").read_bytes()
    for kept in (0, 5, len(content) // 2):
        (tmp_path / "a.safetensors").write_bytes(content[:kept])
        with pytest.raises(UsageError, match="a.safetensors is (damaged|empty)"):
            checkpoints.read(tmp_path / "a.safetensors")


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_net_is_refused_with_the_remedy(zipped, tmp_path):
    torch.save(models.LeNet(3), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError) as error:
        checkpoints.read(tmp_path / "a.pth")
    assert "state_dict() instead" in str(error.value) and "\n" not in str(error.value)
    assert ("a whole net" if zipped else "models.lenet.LeNet") in str(error.value)


def test_a_name_and_a_class_count_of_the_program_are_compared(tmp_path):
    net = models.LeNet(3)
    checkpoint = {"metadata": {"model": "elsewhere/net.py:LeNet", "num_classes": 3}, "net": net.state_dict()}
    state_dicts.load_net(net, checkpoint, "a.pth", "here/net.py:LeNet")  # the file may lie elsewhere now
    with pytest.raises(UsageError, match=r"a.pth holds elsewhere/net.py:LeNet with 3 classes; this is ConvNet with 3"):
        state_dicts.load_net(models.ConvNet(3), checkpoint, "a.pth", "ConvNet")
    net.num_classes = 4
    with pytest.raises(UsageError, match="with 3 classes; this is LeNet with 4 classes"):
        state_dicts.load_net(net, checkpoint, "a.pth", "LeNet")


def test_reading_a_checkpoint_runs_no_external_code(tmp_path):
    (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\n")
    path = tmp_path / "a.pth"
    checkpoints.write({"metadata": {"model": f"{tmp_path}/net.py:Net"}, "net": {"w": torch.ones(1)}}, path)
    assert models.task_of(models.find(checkpoints.read(path)["metadata"]["model"])) == "Classify"
    assert not (tmp_path / "ran").exists()
