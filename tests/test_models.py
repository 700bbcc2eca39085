"""Every model by enumeration: shapes, gradients, parity with torchvision, weights in and out."""

import inspect
import pickle
import re
import urllib.error
import warnings
from pathlib import Path

import pytest
import torch
import torchvision

import models
from models import input_size, pretrained, torchvision_models
from models.basic_module import BasicModule
from utils.errors import UsageError

# A model that takes no num_classes (a generator, say) is not a classifier, and its own tests are elsewhere.
CLASSIFIERS = [n for n in models.names() if models.task_of(n) == "Classify"]
TWINS = [n for n in CLASSIFIERS if getattr(models, n).torchvision_name]
SMALLEST = {"AlexNet": 63, "CifarNet": 9, "DigitNet": 9, "ResNet34": 1, "SqueezeNet": 17}  # as their docstrings say
SMALLEST |= {"ConvNet": 10, "LeNet": 16, "MNISTNet": 16}  # built for one size


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def refusal(call, *args, **kwargs) -> str:
    """The text of the UsageError that the call raises: one line."""
    with pytest.raises(UsageError) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torchvision's, and no internet; returns the folder of the weight files."""

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    yield folder
    torch.hub.set_dir(before)


# ---- our models


def test_the_three_of_the_issue_are_there():
    assert {"AlexNet", "ResNet34", "SqueezeNet"} <= set(models.names())
    assert set(models.names()) <= set(dir(models))
    assert models.ResNet34.__module__ == "models.resnet34"
    with pytest.raises(AttributeError):
        models.ResNet35  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_forward_and_backward(name):
    fixed = "image_size" in inspect.signature(getattr(models, name)).parameters
    net = models.build(name, num_classes=5, image_size=67)
    logits = net(torch.randn(2, 3, 67, 67 if fixed else 90))  # odd, and not square where the net can take it
    assert logits.shape == (2, 5) and logits.dtype == torch.float32
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()
    learning = [p for p in net.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    assert any(p.grad.abs().max() > 0 for p in learning)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("size", [65, 224, 255])
def test_a_single_image_of_any_size(name, size):
    """On the meta device: shapes without the work."""
    net = input_size.on_meta(name, num_classes=3, image_size=size).eval()
    assert net(torch.empty(1, 3, size, size, device="meta")).shape == (1, 3)


@pytest.mark.parametrize("name, smallest", SMALLEST.items())
def test_smallest_size_is_the_documented_one(name, smallest):
    net = models.build(name, num_classes=2, image_size=smallest).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, smallest, smallest)).isfinite().all()
        if smallest > 1:
            with pytest.raises(RuntimeError):
                net(torch.randn(1, 3, smallest - 1, smallest - 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_equal_to_torchvision(name):
    """One seed gives the same weights; the same weights give the same outputs, both ways."""
    build = getattr(models, name)
    torch.manual_seed(0)
    ours = build(num_classes=10).eval()
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(ours.torchvision_name, num_classes=10).eval()
    images = torch.randn(2, 3, 97, 97)
    names = pretrained.name_map(ours)  # {theirs: ours}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert all(torch.equal(theirs.state_dict()[t], ours.state_dict()[o]) for t, o in names.items())

    with torch.no_grad():
        fresh = build(num_classes=10).eval()
        fresh.load_state_dict({names[k]: v for k, v in theirs.state_dict().items()})
        torch.testing.assert_close(fresh(images), theirs(images))
        fresh = build(num_classes=10).eval()
        theirs.load_state_dict({t: fresh.state_dict()[o] for t, o in names.items()})
        torch.testing.assert_close(fresh(images), theirs(images))
        assert not torch.equal(fresh(images), ours(images))


@pytest.mark.parametrize("name", TWINS)
def test_parameter_counts_in_the_docstrings(name):
    for classes in (2, 1000):
        count = sum(p.numel() for p in input_size.on_meta(name, classes, 224).parameters())
        assert f"{count:,}" in models.describe(name)


# ---- save, load, optimizer


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLASSIFIERS, "mnasnet0_5", "googlenet"])
def test_save_and_load(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = models.build(name, num_classes=2, image_size=64)
    path = net.save()
    assert path.parent == Path("checkpoints") and path.name.startswith(f"{name}_") and path.suffix == ".pth"
    content = torch.load(path, weights_only=True)
    assert content["metadata"] == {"model": name, "num_classes": 2}
    again = models.build(name, num_classes=2, image_size=64)
    assert again.load(path) is again and same(again.state_dict(), net.state_dict())
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_save_takes_a_path_and_makes_its_folder(tmp_path):
    path = tmp_path / "sub" / "a.pth"
    assert models.LeNet(2).save(path) == path and path.is_file()


def test_load_takes_a_run_folder_and_a_plain_state_dict(tmp_path):
    net = models.SqueezeNet(num_classes=2)
    net.save(tmp_path / "last.pth")
    assert same(models.SqueezeNet(2).load(tmp_path).state_dict(), net.state_dict())
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    assert same(models.SqueezeNet(2).load(tmp_path / "plain.pth").state_dict(), net.state_dict())


class Bomb:
    """A pickle that would make a file when read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_load_refuses_what_does_not_belong(tmp_path):
    path = models.SqueezeNet(num_classes=2).save(tmp_path / "x.pth")
    told = refusal(models.AlexNet(num_classes=10).load, path)
    assert all(word in told for word in ("x.pth", "SqueezeNet with 2", "AlexNet with 10"))
    told = refusal(models.SqueezeNet(num_classes=3).load, path)
    assert "SqueezeNet with 2" in told and "SqueezeNet with 3" in told
    assert "missing.pth" in refusal(models.SqueezeNet(2).load, tmp_path / "missing.pth")
    path.write_bytes(path.read_bytes()[:100_000])
    assert "x.pth" in refusal(models.SqueezeNet(2).load, path)
    path.write_bytes(pickle.dumps({"net": Bomb(tmp_path / "boom")}, protocol=2))
    assert "x.pth" in refusal(models.SqueezeNet(2).load, path)
    torch.save({"net": Bomb(tmp_path / "boom")}, path)
    assert "x.pth" in refusal(models.build, "SqueezeNet", 2, weights=path)
    assert not (tmp_path / "boom").exists()


def test_get_optimizer():
    net = models.SqueezeNet()
    adam = net.get_optimizer(lr=0.1, weight_decay=0.01)
    assert type(adam) is torch.optim.Adam
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (0.1, 0.01)
    assert sum(len(group["params"]) for group in adam.param_groups) == len(list(net.parameters()))


# ---- torchvision's models


def test_torchvision_names_are_torchvisions():
    listed = torchvision.models.list_models(module=torchvision.models)
    assert models.torchvision_names() == listed and len(listed) >= 80
    assert "ResNet-50" in models.describe("resnet50")


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_torchvision_model_builds_for_the_classes(name):
    """On the meta device: shapes without the work."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = input_size.on_meta(name, num_classes=7, image_size=224)
    assert net(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 7)
    assert all(t.is_meta for t in net.state_dict().values())
    assert isinstance(net, BasicModule) and (net.model_name, net.num_classes) == (name, 7)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_no_auxiliary_outputs_in_training(name):
    net = input_size.on_meta(name, num_classes=7, image_size=224).train()
    assert net(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 7)


@pytest.mark.slow
def test_torchvision_model_is_torchvisions_and_trains(tmp_path):
    torch.manual_seed(0)
    net = models.build("resnet18", num_classes=4)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=4)
    assert isinstance(net, torchvision.models.ResNet) and same(net.state_dict(), theirs.state_dict())
    optimizer = net.get_optimizer(lr=1e-3, weight_decay=0)
    net(torch.randn(2, 3, 40, 40)).sum().backward()
    optimizer.step()
    assert not same(net.state_dict(), theirs.state_dict())


# ---- image sizes


@pytest.mark.parametrize("name", ["AlexNet", "resnet18", "vit_b_16", "swin_v2_t", "regnet_y_400mf", "maxvit_t"])
def test_check_input_takes_what_works(name):
    models.check_input(name, num_classes=2, image_size=224)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, size, works",
    [("AlexNet", 32, "64"), ("inception_v3", 64, "96"), ("vit_b_16", 200, "32, the nearest 192")],
)
def test_check_input_names_a_size_that_works(name, size, works):
    assert refusal(models.check_input, name, 2, size) == (
        f"{name} cannot take images of {size}x{size} pixels: of the usual sizes the smallest that works is {works}"
    )


def test_check_input_refuses_a_smaller_size_at_first_to_a_net_of_one_size():
    models.check_input("resnet18", 2, 64, shown=48)
    assert refusal(models.check_input, "vit_b_16", 2, 224, shown=168) == (
        "vit_b_16 for 224x224 pixels cannot take 168x168 at first: leave out --progressive-resizing"
    )


def test_check_input_lets_pass_what_the_meta_device_cannot_do(monkeypatch):
    def build(*args):
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(torchvision_models, "build", build)
    models.check_input("resnet18", num_classes=2, image_size=224)


# ---- weights


def weight_file(folder: Path, name: str, **options) -> tuple[Path, dict]:
    """A file with torchvision's name for the default weights of `name`, and what is in it."""
    state = torchvision.models.get_model(name, **options).state_dict()
    path = folder / torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    torch.save(state, path)
    return path, state


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet34", "resnet34", "SqueezeNet"])
def test_pretrained_from_the_cache(name, hub, capsys):
    twin, head = ("squeezenet1_1", "classifier.1") if name == "SqueezeNet" else ("resnet34", "fc")
    path, state = weight_file(hub, twin)
    net = models.build(name, num_classes=3, pretrained=True)
    loaded = list(zip(net.state_dict().items(), state.items(), strict=True))
    fresh = [ours for (ours, v), (_, w) in loaded if v.shape != w.shape or not torch.equal(v, w)]
    assert fresh == [f"{head}.weight", f"{head}.bias"]
    told = capsys.readouterr().out
    assert path.name in told and " and ".join(fresh) in told and "1000 classes there, 3 here" in told


def test_pretrained_with_its_own_thousand_classes_keeps_the_head(hub, capsys):
    _, state = weight_file(hub, "resnet18")
    net = models.build("resnet18", num_classes=1000, pretrained=True)
    assert same(net.state_dict(), state) and capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["ResNet34", "resnet18"])
def test_offline_message_says_what_to_do(name, hub):
    told = refusal(models.build, name, 2, pretrained=True)
    url = torchvision.models.get_model_weights(name.lower()).DEFAULT.url
    assert all(part in told for part in (url, str(hub), "--load-path", "no route to host"))


def test_a_model_that_torchvision_lacks_has_no_pretrained_weights():
    class Own(BasicModule):
        pass

    assert "no weights for Own" in refusal(pretrained.fetch, Own(), "Own")


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False])
def test_weights_from_a_local_file_in_either_vocabulary(plain, tmp_path):
    net = models.ResNet34(num_classes=2)
    path = tmp_path / "w.pth"
    if plain:  # torchvision's names, without the counters that old files lack
        names = pretrained.name_map(net)
        state = {t: net.state_dict()[o] for t, o in names.items() if "num_batches" not in t}
        torch.save(state, path)
    else:
        net.save(path)
    assert same(models.build("ResNet34", 2, weights=path).state_dict(), net.state_dict())
    other = models.build("ResNet34", 5, weights=path).state_dict()
    assert [k for k, v in net.state_dict().items() if other[k].shape != v.shape] == ["fc.weight", "fc.bias"]


def test_weights_of_a_checkpoint_saved_from_a_torchvision_model(tmp_path):
    net = models.build("mnasnet0_5", 2)
    path = net.save(tmp_path / "w.pth")
    assert same(models.build("mnasnet0_5", 2, weights=path).state_dict(), net.state_dict())
    torch.save(dict(net.state_dict()), path)  # without the version that MNASNet asks for
    assert same(models.build("mnasnet0_5", 2, weights=path).state_dict(), net.state_dict())


def test_auxiliary_heads_of_a_weight_file_are_left_out(tmp_path):
    path, state = weight_file(tmp_path, "googlenet", init_weights=False)
    assert any(k.startswith("aux1.") for k in state)
    net = models.build("googlenet", 1000, weights=path)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_densenet_takes_the_old_names_of_torchvisions_files(tmp_path):
    new = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
    state = {new.sub(r"\1.\2.", k): v for k, v in models.build("densenet121", 2).state_dict().items()}
    assert any(".norm.1." in k for k in state)
    torch.save(state, tmp_path / "w.pth")
    net = models.build("densenet121", 2, weights=tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), state.values(), strict=True))


@pytest.mark.slow
def test_vit_weights_at_another_image_size(tmp_path):
    small = models.build("vit_b_32", 3, image_size=64)
    path = small.save(tmp_path / "w.pth")
    large = models.build("vit_b_32", 3, image_size=96, weights=path)
    a, b = small.state_dict(), large.state_dict()
    assert (a[pretrained.POSITION].shape[1], b[pretrained.POSITION].shape[1]) == (2 * 2 + 1, 3 * 3 + 1)
    assert [k for k in a if k != pretrained.POSITION and not torch.equal(a[k], b[k])] == []
    with torch.no_grad():
        assert large.eval()(torch.randn(1, 3, 96, 96)).shape == (1, 3)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = models.SqueezeNet(2).save(tmp_path / "w.pth")
    assert "w.pth does not fit ResNet34" in refusal(models.build, "ResNet34", 2, weights=path)
    assert "w.pth does not fit squeezenet1_0" in refusal(models.build, "squeezenet1_0", 2, weights=path)
    torch.save({"epoch": 3, "weight": torch.ones(1)}, path)
    assert "its entry 'epoch' is a int" in refusal(models.build, "SqueezeNet", 2, weights=path)
    assert "none.pth" in refusal(models.build, "SqueezeNet", 2, weights=tmp_path / "none.pth")


@pytest.mark.parametrize("side", [1, 3, 4])
def test_the_global_max_pool_is_torchs_with_its_gradients(side):
    from models.cifarnet import GlobalMaxPool

    maps = torch.randn(4, 8, side, side).round()  # with values that are equal
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    out, expected = GlobalMaxPool()(ours), torch.nn.AdaptiveMaxPool2d(1)(theirs)
    for result in (out, expected):
        (result * torch.arange(8.0)[:, None, None]).sum().backward()
    assert torch.equal(out, expected) and torch.equal(ours.grad, theirs.grad)
