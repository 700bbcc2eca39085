"""Weights that a net cannot use are refused by name, whichever way they come in; heads follow the classes."""

import copy
import json
import shutil

import pytest
import torch
from compare import same
from conftest import COUNT, picture, train_in
from small_net import SmallNet
from torch import nn

import main
import models
from config import Config
from engine.device import select_device
from engine.gan_evaluator import load_classifier
from engine.optimizers import load_optimizer_state, make_optimizer, needs_closure
from runs.record import Record
from utils import checkpoints, registry, state_dicts, torch_optim
from utils.errors import RunError, UsageError

NET = "--model=small_net:SmallNet"


def with_entry(name, change):
    def changed(state):
        return state | {name: change(state[name])}

    return changed


def first(value):
    """Puts a value into the first place of a tensor."""

    def put(tensor):
        changed = tensor.clone()
        changed.flatten()[0] = value
        return changed

    return put


BAD = {
    "int8": (with_entry("fc.weight", torch.Tensor.char), "fc.weight is of type int8, expected float32"),
    "int64": (with_entry("fc.bias", torch.Tensor.long), "fc.bias is of type int64"),
    "bool": (with_entry("norm.bias", torch.Tensor.bool), "norm.bias is of type bool"),
    "complex": (with_entry("fc.weight", lambda t: t.to(torch.complex64)), "fc.weight is of type complex64"),
    "fp8": (with_entry("fc.weight", lambda t: t.to(torch.float8_e4m3fn)), "fc.weight is of type float8_e4m3fn"),
    "sparse": (with_entry("fc.weight", torch.Tensor.to_sparse), "fc.weight is a sparse tensor"),
    "sparse rows": (with_entry("fc.weight", torch.Tensor.to_sparse_csr), "fc.weight is a sparse tensor"),
    "quantized": (
        with_entry("fc.weight", lambda t: torch.quantize_per_tensor(t.detach(), 0.1, 0, torch.qint8)),
        "fc.weight is a quantized tensor",
    ),
    "no data": (with_entry("fc.weight", lambda t: t.to("meta")), "fc.weight is a meta tensor"),
    "NaN": (with_entry("conv.weight", first(float("nan"))), "conv.weight holds NaN"),
    "infinity": (with_entry("fc.bias", first(-float("inf"))), "fc.bias holds infinity"),
    "NaN in a buffer": (with_entry("norm.running_var", first(float("nan"))), "norm.running_var holds NaN"),
    "too large": (with_entry("fc.bias", lambda t: t.double() + 1e300), "fc.bias holds numbers too large for float32"),
    "counter of halves": (
        with_entry("norm.num_batches_tracked", lambda t: t + 0.5),
        "is of type float32, expected int64",
    ),
}
GOOD = {
    "float16": with_entry("fc.weight", torch.Tensor.half),
    "bfloat16": with_entry("fc.weight", torch.Tensor.bfloat16),
    "float64": with_entry("fc.weight", torch.Tensor.double),
    "int32 counter": with_entry("norm.num_batches_tracked", torch.Tensor.int),
    "whole counter": with_entry("norm.num_batches_tracked", torch.Tensor.float),
}


@pytest.fixture(scope="module")
def run(dogcat, tmp_path_factory):
    """The folder of a run of the small net on cats and dogs."""
    return train_in(tmp_path_factory.mktemp("runs"), NET, f"--train-data-root={dogcat}/train", "--batch-size=4")


@pytest.fixture
def given(monkeypatch):
    """What a test gives in Python is forgotten after it."""
    monkeypatch.setattr(registry, "_objects", {})


def load_in_python(path, command, dogcat, tmp_path):
    state_dicts.load_net(SmallNet(2), checkpoints.read(path), path)


def build_from(path, command, dogcat, tmp_path):
    models.build("small_net:SmallNet", 2, 32, weights=path)


def judge_by(path, command, dogcat, tmp_path):
    registry.register(SmallNet)  # a run of code outside of the program is a judge where that is given in Python
    load_classifier(str(path), 3)


def use(command, *words):
    code, _, err = command(*words)
    if code in (1, 2):
        raise (RunError, UsageError)[code - 1](err.strip())
    assert code == 0, err


def by_val(path, command, dogcat, tmp_path):
    use(command, "val", NET, f"--load-path={path}", f"--train-data-root={dogcat}/train")


def by_test(path, command, dogcat, tmp_path):
    use(
        command,
        "test",
        NET,
        f"--load-path={path}",
        f"--test-data-root={dogcat}/test1",
        f"--result-file={tmp_path}/r.csv",
    )


def by_train(path, command, dogcat, tmp_path, *flags):
    words = ["--image-size=32", "--max-epoch=1", "--num-workers=0", "--vis-port=None", "--amp=off", "--use-gpu=false"]
    words += [f"--train-data-root={dogcat}/train", f"--checkpoint-dir={tmp_path}/runs", *flags]
    use(command, "train", NET, f"--load-path={path}", *words)


def by_pretrained(path, command, dogcat, tmp_path):
    by_train(path, command, dogcat, tmp_path, "--pretrained")


def by_resume(path, command, dogcat, tmp_path):
    use(command, "train", NET, f"--resume={path.parent}", "--max-epoch=2")


WAYS = [load_in_python, build_from, judge_by, by_val, by_test, by_train, by_pretrained, by_resume]


def changed_run(run, tmp_path, change):
    """A copy of the run with other weights in its only checkpoint."""
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth"))
    checkpoint = checkpoints.read(run / "last.pth")
    checkpoints.write(checkpoint | {"net": change(checkpoint["net"])}, folder / "last.pth")
    return folder / "last.pth"


@pytest.mark.parametrize("kind", BAD)
def test_weights_that_a_net_cannot_use_are_refused_by_name(kind, tmp_path):
    change, message = BAD[kind]
    net = SmallNet(2)
    torch.save(change(net.state_dict()), tmp_path / "a.pth")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UsageError, match="a.pth") as error:
        state_dicts.load_net(net, checkpoints.read(tmp_path / "a.pth"), tmp_path / "a.pth")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", ["int8", "sparse", "NaN in a buffer", "too large"])
@pytest.mark.parametrize("way", WAYS)
def test_whichever_way_they_come_in(way, kind, run, command, dogcat, given, tmp_path):
    path = changed_run(run, tmp_path, BAD[kind][0])
    with pytest.raises((UsageError, RunError), match=BAD[kind][1]) as error:
        way(path, command, dogcat, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", GOOD)
def test_numbers_of_another_width_are_taken(kind, tmp_path):
    net = SmallNet(2)
    torch.save(GOOD[kind](net.state_dict()), tmp_path / "a.pth")
    again = SmallNet(2)
    state_dicts.load_net(again, checkpoints.read(tmp_path / "a.pth"), tmp_path / "a.pth")
    assert again.fc.weight.dtype == torch.float32 and torch.allclose(again.fc.weight, net.fc.weight, atol=1e-2)


def test_infinity_where_a_fresh_net_has_it_too(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((3, 3), -float("inf")).triu(1))

    torch.save(Masked().state_dict(), tmp_path / "a.pth")
    state_dicts.load_net(Masked(), checkpoints.read(tmp_path / "a.pth"), tmp_path / "a.pth")


# ---- a head and its classes


def colours(root, *classes):
    """A folder of one colour a class."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(COUNT):
            picture(root / name / f"{i}.png", (200 * (number % 2), 100 * number, 10 * i))
    return root


KEEP = ["--lr=1e-30", "--optimizer=SGD", "--batch-size=4"]


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """A run on the classes cat, dog, emu."""
    root = colours(tmp_path_factory.mktemp("data") / "set", "cat", "dog", "emu")
    return train_in(tmp_path_factory.mktemp("runs"), NET, "--dataset=Folder", f"--train-data-root={root}", *KEEP)


def start_from(cats, command, tmp_path, *flags, classes, model=NET):
    root = colours(tmp_path / "others", *classes)
    words = [model, "--dataset=Folder", f"--train-data-root={root}", f"--load-path={cats}", *KEEP, *flags]
    words += ["--image-size=32", "--max-epoch=1", "--num-workers=0", "--vis-port=None", "--amp=off", "--use-gpu=false"]
    code, out, err = command("train", *words, f"--checkpoint-dir={tmp_path}/runs")
    runs = list((tmp_path / "runs").glob("*"))
    return code, out, err, checkpoints.read(runs[0])["net"] if runs else None


def trained_on(cats, tmp_path, classes):
    """A copy of the run as if its classes had been these."""
    checkpoint = checkpoints.read(cats)
    checkpoint["metadata"]["classes"] = list(classes)
    folder = tmp_path / "from"
    folder.mkdir()
    checkpoints.write(checkpoint, folder / "best.pth")
    return folder


@pytest.mark.parametrize("flags", [[], ["--pretrained"]])
def test_the_same_classes_keep_the_head(flags, cats, command, tmp_path):
    code, out, err, net = start_from(cats, command, tmp_path, *flags, classes=("cat", "dog", "emu"))
    assert code == 0 and "head" not in out and "order" not in out, err
    assert torch.equal(net["fc.weight"], checkpoints.read(cats)["net"]["fc.weight"])


@pytest.mark.parametrize("flags", [[], ["--pretrained"]])
def test_another_order_of_the_classes_reorders_the_head(flags, cats, command, tmp_path):
    source = trained_on(cats, tmp_path, ("emu", "cat", "dog"))
    code, out, err, net = start_from(source, command, tmp_path, *flags, classes=("cat", "dog", "emu"))
    assert code == 0 and out.count("put the rows of fc.weight and fc.bias in the order of these classes") == 1, err
    theirs = checkpoints.read(cats)["net"]
    for name in ("fc.weight", "fc.bias"):
        assert torch.equal(net[name], theirs[name][[1, 2, 0]])
    assert torch.equal(net["conv.weight"], theirs["conv.weight"])


@pytest.mark.parametrize(
    "classes", [("ant", "bee", "fly"), ("ant", "cat", "dog"), ("ant", "bee"), ("a", "b", "c", "d")]
)
def test_other_classes_are_refused_or_start_with_a_new_head(classes, cats, command, tmp_path):
    code, _, err, net = start_from(cats, command, tmp_path, classes=classes)
    assert code == 2 and "add --pretrained" in err and "cat, dog, emu" in err and err.count("\n") == 1 and net is None
    shutil.rmtree(tmp_path / "others")
    code, out, err, net = start_from(cats, command, tmp_path, "--pretrained", "--seed=1", classes=classes)
    assert code == 0 and out.count("loaded all but fc.weight and fc.bias, which start afresh") == 1, err
    theirs = checkpoints.read(cats)["net"]
    assert torch.equal(net["conv.weight"], theirs["conv.weight"]) and len(net["fc.weight"]) == len(classes)
    assert not torch.equal(net["fc.weight"], theirs["fc.weight"])


def test_a_net_whose_head_cannot_be_told_is_not_lent_to_other_classes(cats, given, tmp_path):
    words = {"dataset": "Folder", "checkpoint_dir": tmp_path / "runs", "image_size": 32}
    words |= {"max_epoch": 1, "num_workers": 0, "vis_port": None, "use_gpu": False, "batch_size": 4}
    for classes, pretrained, message in (
        (("ant", "bee", "fly"), False, "add --pretrained"),
        (("ant", "bee", "fly"), True, "cannot be told"),
        (("dog", "emu", "cat"), False, "cannot be told"),
    ):
        source = trained_on(cats, tmp_path, ("cat", "dog", "emu") if "ant" in classes else ("emu", "dog", "cat"))
        root = colours(tmp_path / "others", *classes)
        with pytest.raises(UsageError, match=message):
            main.train(model=SmallNet(3), load_path=source, **words, train_data_root=root, pretrained=pretrained)
        shutil.rmtree(root)
        shutil.rmtree(source)


def test_weights_without_class_names_keep_their_head(cats, command, tmp_path):
    state = checkpoints.read(cats)["net"]
    torch.save(state, tmp_path / "a.pth")
    code, _, err, net = start_from(tmp_path / "a.pth", command, tmp_path, classes=("ant", "bee", "fly"))
    assert code == 0 and torch.equal(net["fc.weight"], state["fc.weight"]), err


@pytest.mark.parametrize("name", ["resnet18", "SqueezeNet", "densenet121", "timm/resnet18", "vit_b_32"])
def test_the_head_of_a_net_is_found(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    from models import heads

    net = models.build(name, 7, 64)
    found = heads.entries(net, name, 64, 3, {})
    layers = {"resnet18": "fc", "SqueezeNet": "classifier.1", "densenet121": "classifier", "vit_b_32": "heads.head"}
    layer = layers.get(name, "fc")
    assert found == [f"{layer}.weight", f"{layer}.bias"]


# ---- a run's state, and its record


def resumed(run, command, tmp_path, change):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.pth"))
    checkpoint = checkpoints.read(run / "last.pth")
    change(checkpoint)
    checkpoints.write(checkpoint, folder / "last.pth")
    return command("train", NET, f"--resume={folder}", "--max-epoch=2")


STATES = {
    "no optimizer": (lambda task: task.pop("optimizer"), "it lacks task.optimizer"),
    "a shape": (
        lambda task: task["optimizer"]["state"][0].update(exp_avg=torch.ones(2)),
        "task.optimizer.state.0.exp_avg is a tensor of shape (2,), expected a tensor of shape (16, 3, 3, 3)",
    ),
    "a moment is gone": (
        lambda task: task["optimizer"]["state"][0].pop("exp_avg"),
        "lacks task.optimizer.state.0.exp_avg",
    ),
    "a group is gone": (lambda task: task["optimizer"].update(param_groups=[]), "does not fit Adam"),
    "schedule": (lambda task: task["scheduler"].update(factor="x"), "task.scheduler.factor is a str, expected a float"),
    "average": (lambda task: task.update(learning_net={}), "it lacks task.learning_net.conv.weight"),
    "average with NaN": (
        lambda task: task.update(learning_net=SmallNet(2).state_dict() | {"fc.bias": torch.tensor([1, float("nan")])}),
        "fc.bias holds NaN",
    ),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_does_not_fit_is_refused_in_one_line(kind, run, command, tmp_path):
    change, message = STATES[kind]
    code, _, err = resumed(run, command, tmp_path, lambda checkpoint: change(checkpoint["task"]))
    assert code == 2 and message in err and "last.pth does not fit this training" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in torch_optim.names() if name != "SparseAdam"])
def test_every_optimizers_state_is_loaded_as_it_was(name):
    def steps(net, optimizer, count):
        for step in range(count):
            for number, p in enumerate(net.parameters()):
                p.grad = torch.full_like(p, 0.1 * step + number)
            optimizer.step(*[lambda: 1.0] * needs_closure(optimizer))

    opt, device = (
        Config(optimizer=name, momentum=0.5 if name in ("SGD", "Muon", "RMSprop") else None),
        select_device(Config()),
    )
    net = SmallNet(2)
    optimizer = make_optimizer(net, opt, device)
    steps(net, optimizer, 3)
    again = SmallNet(2)
    again.load_state_dict(net.state_dict())
    other = make_optimizer(again, opt, device)
    load_optimizer_state(other, copy.deepcopy(optimizer.state_dict()), saved=("lr",))
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])
    steps(net, optimizer, 2)
    steps(again, other, 2)
    assert same(again.state_dict(), net.state_dict())


def test_resuming_takes_the_checkpoint_before_one_that_lacks_something(run, command, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    checkpoint = checkpoints.read(run / "last.pth")
    del checkpoint["metadata"]["classes"]
    checkpoints.write(checkpoint, folder / "step_00000099.pth")
    checkpoint["trainer"]["epoch"] = "one"
    checkpoints.write(checkpoint, folder / "step_00000098.pth")
    code, out, err = command("train", NET, f"--resume={folder}", "--max-epoch=2")
    assert code == 0 and f"resuming from {folder}/last.pth" in out, err
    assert "step_00000099.pth is damaged: it lacks metadata.classes" in out


LINES = ["3", '"step"', "[1]", "null", "{}", '{"kind": 3}', '{"kind": ["step"]}', '{"kind": "step"}', "", "[" * 100_000]
LINES += ['{"kind": "step", "step": "x"}', '{"kind": "epoch", "epoch": null}', '{"kind": "step", "step": tru']


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:20])
def test_a_line_of_the_record_that_is_no_entry_is_dropped(line, run, command, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    path = folder / "metrics.jsonl"
    entries = path.read_text()
    path.write_text(f"{line}\n{entries}{line}\n")
    record = Record(path)
    kept = record.cut_back({"step": 10**9, "epoch": 10**9})
    record.close()
    assert kept == list(map(json.loads, entries.splitlines())) and path.read_text() == entries
