"""Models from outside: external classes, functions and instances, plain modules, timm; arguments; building again."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_models import refusal, same
from torch import nn

import models
from models import building, timm_models
from utils import checkpoints, registry, state_dicts

ROOT = Path(__file__).parent.parent
NETS = '''
import torch
from torch import nn
import models
from models.basic_module import BasicModule
from models.gans import MNISTGAN

class Plain(nn.Module):
    """A plain module.

    It derives from nothing of ours.
    """
    dataset = "MNIST"

    def __init__(self, num_classes, width=4, in_channels=3):
        super().__init__()
        if width == 13:
            raise ValueError("13 brings\\nbad luck")
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean(dim=(2, 3)))

class Derived(Plain):
    def __init__(self, **options):
        super().__init__(**options)

class BookNet(BasicModule):
    """As the book prints it: its own name, and get_optimizer without a default."""
    def __init__(self, num_classes=2):
        super(BookNet, self).__init__()
        self.model_name = "resnet34"
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))

    def get_optimizer(self, lr, weight_decay):
        return torch.optim.Adam(self.parameters(), lr=lr, weight_decay=weight_decay)

class Counting(nn.Module):
    """Its attribute in_channels is no fact of the images, as in many nets on the web."""
    def __init__(self, num_classes):
        super().__init__()
        self.in_channels = 64
        self.conv = nn.Conv2d(1, 64, 3)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean(dim=(2, 3)))

class Lazy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(num_classes))

    def forward(self, x):
        return self.layers(x)

class TenClasses(Plain):
    def __init__(self):
        super().__init__(10)

class Pair(Plain):
    def forward(self, x):
        return super().forward(x), x

class Random(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes, width=int(torch.randint(3, 10**6, (1,))) % 1000 + 1)

class Whitened(Plain):
    """Computes with its weights, which the meta device cannot."""
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.scale = float(self.conv.weight.detach().abs().max())

class MyGan(MNISTGAN):
    pass

class MyOtherGan(MyGan):
    nz = 5

def small(num_classes, image_size, depth=1):
    layers = [nn.Conv2d(1, 8, 3, padding=1) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * image_size**2, num_classes))

def nothing(num_classes):
    return num_classes

ready = Plain(3)
'''


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> str:
    """What stands before the class in the name of a net of NETS."""
    path = tmp_path_factory.mktemp("outside") / "nets.py"
    path.write_text(NETS, encoding="utf-8")
    return f"{path}:"


# ---- names


def test_names_of_all_kinds_are_known_without_torch(nets):
    code = (
        "import sys, models; n = sys.argv[1];"
        "print(models.find(n + 'Plain'), models.task_of(n + 'MyOtherGan'), models.parameters(n + 'Plain'));"
        "print(models.find('timm/RESNET18'), models.find('timm/resnet18.a1_in1k'), models.task_of('timm/resnet18'));"
        "models.check_arguments(n + 'Plain', {'width': 2}); models.describe(n + 'Plain');"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, nets], cwd=ROOT, check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        f"{nets}Plain Gan ('num_classes', 'width', 'in_channels')",
        "timm/resnet18 timm/resnet18.a1_in1k Classify",
    ]


def test_timm_names_are_timms():
    import timm

    assert models.timm_names() == sorted(timm.list_models()) and len(models.timm_names()) > 1000


@pytest.mark.parametrize(
    "name, message",
    [
        ("vit_tiny_patch16_224", "Did you mean timm/vit_tiny_patch16_224?"),
        ("squeezenet1_2", "Did you mean squeezenet1_"),
        ("timm/resnet118", "Did you mean timm/resnet18?"),
        ("timm/resnet18.a1_in1", "it has a1_in1k, "),
        ("timm/resnet18.", "unknown tag of timm/resnet18"),
    ],
)
def test_an_unknown_name_brings_the_nearest(name, message):
    assert message in refusal(models.find, name)


def test_without_timm_its_names_say_how_to_install_it():
    code = (
        "import sys; sys.modules['timm'] = None\nimport models\nfrom utils.errors import UsageError\n"
        "try: models.find('timm/resnet18')\nexcept UsageError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "timm is not installed" in done.stdout and "pip install -r requirements.txt timm" in done.stdout


def test_constants_come_from_the_class_and_from_ours(nets):
    assert models.constants(f"{nets}Derived")["dataset"] == "MNIST"
    inherited = models.constants(f"{nets}MyOtherGan")
    assert (inherited["task"], inherited["dataset"], inherited["nz"]) == ("Gan", "Unlabelled", 5)
    assert models.task_of(f"{nets}Plain") == models.task_of("resnet18") == "Classify"
    assert models.constants("timm/resnet18") == {}


def test_describe_an_external_class(nets):
    text = models.describe(f"{nets}Plain")
    assert text.startswith("A plain module.\n\nIt derives") and text.endswith("Arguments (--model-args): width")


# ---- building


@pytest.mark.parametrize("name", ["Plain", "Derived", "BookNet", "Lazy", "Whitened", "Counting"])
def test_any_module_is_checked_built_trained_and_built_again(name, nets, tmp_path):
    name, channels = f"{nets}{name}", 1 if name == "Counting" else 3
    models.check_input(name, 5, 16, channels=channels)
    net = models.build(name, 5, 16, channels)
    models.check_rebuild(net, name, 5, 16, channels)
    assert (net.num_classes, net.in_channels) == (5, channels)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = [p.clone() for p in net.parameters()]
    nn.functional.cross_entropy(net(torch.randn(4, channels, 16, 16)), torch.arange(4)).backward()
    optimizer.step()
    assert not all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    checkpoints.write({"metadata": {"model": name, "num_classes": 5}, "net": net.state_dict()}, tmp_path / "a.pth")
    again = models.build(name, 5, 16, channels)
    state_dicts.load_net(again, checkpoints.read(tmp_path / "a.pth"), tmp_path / "a.pth", name)
    assert same(again.state_dict(), net.state_dict())


def test_a_function_gives_a_net_and_its_arguments_reach_it(nets):
    net = models.build(f"{nets}small", 7, 8, channels=1, arguments={"depth": 1})
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 7) and net.in_channels == 1
    assert len(models.build(f"{nets}small", 7, 8, 1, {"depth": 3})) == 5
    assert "gives a int, not an nn.Module" in refusal(models.build, f"{nets}nothing", 3)


def test_an_instance_is_used_as_it_is():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    name = registry.register(net)
    models.check_input(name, 4, 8)
    assert models.build(name, 4, 8) is net and (net.num_classes, net.in_channels) == (4, 3)
    assert not next(net.parameters()).is_meta
    models.check_rebuild(net, name, 4, 8)
    assert "takes no arguments" in refusal(models.build, name, 4, 8, arguments={"width": 3})
    assert "gives (1, 4)" in refusal(models.check_input, name, 5, 8)


def test_a_class_given_in_python():
    class Own(nn.Module):
        def __init__(self, num_classes, width=2):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(width, num_classes)

        def forward(self, x):
            return self.head(self.net(x))

    name = registry.register(Own)
    models.check_input(name, 3, 8, arguments={"width": 5})
    assert models.build(name, 3, 8, arguments={"width": 5}).head.weight.shape == (3, 5)
    assert "takes no 'widht': it takes width. Did you mean width?" in refusal(
        models.check_arguments, name, {"widht": 3}
    )


def test_a_net_saves_and_loads_itself_as_the_book_does(nets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = models.build(f"{nets}BookNet", 3)
    path = net.save()
    assert path.name.startswith("resnet34_")  # its own name
    assert type(net.get_optimizer(0.1, 0.01)) is torch.optim.Adam
    for other in (models.build(f"{nets}BookNet", 3), type(net)(3)):  # the second knows no num_classes
        assert same(other.load(path).state_dict(), net.state_dict())
    again = models.build(f"{nets}BookNet", 3)
    state_dicts.load_net(again, checkpoints.read(path), path, f"{nets}BookNet")
    assert same(again.state_dict(), net.state_dict())


# ---- arguments


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("LeNet", {"widht": 3}, "LeNet takes no 'widht': it takes no arguments of its own."),
        ("AnimeGAN", {"ngff": 3}, "AnimeGAN takes no 'ngff': it takes nz, ngf, ndf, conditional. Did you mean ngf?"),
        ("ResNet34", {"num_classes": 3}, "num_classes follows from the data set"),
        ("NETS:Plain", {"in_channels": 3}, "in_channels follows from the data set"),
        ("NETS:Plain", {"widht": 3}, "takes no 'widht': it takes width. Did you mean width?"),
        ("NETS:Plain", {"width": 13}, "refuses width=13: 13 brings bad luck"),
        ("NETS:Plain", {"width": "x"}, "refuses width='x': "),
        ("NETS:Plain", {"width": -1}, "refuses width=-1: "),
        ("NETS:Derived", {"widht": 3}, "refuses widht=3: "),
        ("resnet18", {"group": 3}, "resnet18 takes no 'group': it takes zero_init_residual, groups, "),
        ("resnet18", {"group": 3}, "Did you mean groups?"),
        ("resnet18", {"weights": "DEFAULT"}, "weights follows from"),
        ("resnet18", {"groups": 7}, "resnet18 refuses groups=7: BasicBlock only supports groups=1"),
        ("timm/vit_tiny_patch16_224", {"dept": 3}, "Did you mean depth?"),
        ("timm/vit_tiny_patch16_224", {"num_heads": 7}, "refuses num_heads=7: "),
        ("timm/resnet18", {"in_chans": 3}, "in_chans follows from"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(name, arguments, message, nets):
    name = name.replace("NETS:", nets)
    assert message in refusal(models.build, name, 2, 64, arguments=arguments)


def test_a_missing_argument_is_named(tmp_path):
    (tmp_path / "net.py").write_text("class Net:\n    def __init__(self, depth, num_classes): pass\n")
    message = refusal(models.build, f"{tmp_path}/net.py:Net", 2)
    assert "missing a required argument: 'depth'" in message and "--model-args" in message


def test_a_bug_in_a_constructor_keeps_its_traceback(tmp_path):
    (tmp_path / "net.py").write_text("class Net:\n    def __init__(self, width=3): int('x')\n")
    with pytest.raises(ValueError, match="invalid literal"):
        models.build(f"{tmp_path}/net.py:Net", 2)


# ---- checks before a training


@pytest.mark.parametrize(
    "name, classes, channels, message",
    [
        ("TenClasses", 3, 3, "gives (1, 10) for one image of 3 classes, not (1, 3): let its constructor"),
        ("Pair", 3, 3, "gives a tuple for a batch of images"),
        ("Counting", 3, 3, "takes images of 1 channels, and these have 3"),
    ],
)  # fmt: skip
def test_a_net_that_does_not_fit_the_data_set(name, classes, channels, message, nets):
    assert message in refusal(models.check_input, f"{nets}{name}", classes, 16, channels=channels)


def test_grey_images_are_taken_by_nets_of_three_channels(nets):
    models.check_input("resnet18", 3, 32, channels=1)
    models.check_input(f"{nets}TenClasses", 10, 32, channels=1)
    assert models.build(f"{nets}TenClasses", 10, 32, channels=1).in_channels == 3


def test_a_net_that_depends_on_more_than_its_arguments_could_not_be_loaded(nets):
    torch.manual_seed(0)
    net = models.build(f"{nets}Random", 3)
    assert "conv.weight is (" in refusal(models.check_rebuild, net, f"{nets}Random", 3, 16)
    net = models.build("AnimeGAN", 1, 96, arguments={"ngf": 2, "ndf": 2})
    assert "generator.0.weight" in refusal(models.check_rebuild, net, "AnimeGAN", 1, 96)
    models.check_rebuild(net, "AnimeGAN", 1, 96, arguments={"ngf": 2, "ndf": 2})


def test_the_rebuild_check_leaves_the_random_numbers_alone(nets):
    net = models.build(f"{nets}Whitened", 3)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    models.check_rebuild(net, f"{nets}Whitened", 3, 16)
    assert torch.equal(torch.rand(3), expected)


# ---- timm


def test_timm_nets_take_the_size_and_channels_of_the_images():
    for name, size in (("resnet18", 40), ("vit_tiny_patch16_224", 64), ("convnext_atto", 64)):
        net = models.build(f"timm/{name}", 5, size, channels=1).eval()
        assert (net.num_classes, net.in_channels) == (5, 1)
        with torch.no_grad():
            assert net(torch.zeros(2, 1, size, size)).shape == (2, 5)
        models.check_rebuild(net, f"timm/{name}", 5, size, 1)
    models.check_input("timm/swin_tiny_patch4_window7_224", 5, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "efficientnet_b0", "tresnet_l", "deit_tiny_distilled_patch16_224", "inception_v3"]
    + ["mixer_b16_224", "maxvit_tiny_tf_224", "regnety_002", "mobilenetv3_small_100", "coat_tiny", "densenet121"],
)  # fmt: skip
def test_timm_families_on_the_meta_device(name):
    size = models.preprocessing(f"timm/{name}")["image_size"]
    net = building.on_meta(f"timm/{name}", 7, size).train()
    output = net(torch.empty(2, net.in_channels, size, size, device="meta"))
    assert output.shape == (2, 7) and (net.in_channels, net.num_classes) == (3, 7)
    assert all(tensor.is_meta for tensor in net.state_dict().values())


def test_timm_and_torchvision_have_names_in_common_and_are_other_nets():
    ours, theirs = building.on_meta("densenet121", 7, 64), building.on_meta("timm/densenet121", 7, 64)
    assert type(ours).__module__.partition(".")[0] != "timm" and type(theirs).__module__.startswith("timm.")


def test_preprocessing_is_what_timms_weights_were_made_for():
    assert models.preprocessing("ResNet34") == models.preprocessing("resnet18") == {}
    found = models.preprocessing("timm/vit_tiny_patch16_224")
    assert found == {
        "image_size": 224,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }
    assert models.preprocessing("timm/resnet18.tv_in1k")["interpolation"] == "bilinear"


def test_describe_a_model_of_timm():
    text = models.describe("timm/resnet18")
    assert all(part in text for part in ("ResNet-18", "11,689,512", "licence: apache-2.0", "a1_in1k", "224"))


# ---- timm's weights


def published(name: str, folder: Path, **options) -> tuple[Path, dict]:
    """A file with the names of timm's published weights, and what is in it."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    state = timm.create_model(name, **options).state_dict()
    path = folder / "model.safetensors"
    save_file(state, path)
    return path, state


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub's and of torch's, and no internet; returns the hub's cache."""
    from huggingface_hub import constants

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("socket.create_connection", offline)
    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "torch")
    yield tmp_path / "hub"
    torch.hub.set_dir(before)


@pytest.mark.slow
def test_timm_offline_says_at_once_what_to_fetch(hub):
    models.build("timm/resnet18", 2)  # imports timm
    start = time.perf_counter()
    message = refusal(models.build, "timm/resnet18", 2, pretrained=True)
    assert time.perf_counter() - start < 20  # 0.1 s; timm's own attempt takes 46
    assert "timm/resnet18.a1_in1k/resolve/main/model.safetensors" in message and "--load-path=FILE" in message
    assert "gcvit" in refusal(models.build, "timm/gcvit_xxtiny", 2, pretrained=True)  # its file lies elsewhere
    small = (name for name in models.timm_names() if "tiny" in name)
    without = next(name for name in small if not timm_models._config(f"timm/{name}").has_weights)
    assert f"timm has no weights for timm/{without}" in refusal(models.build, f"timm/{without}", 2, 32, pretrained=True)


def test_timm_weights_from_the_hubs_cache(hub, capsys):
    folder = hub / "models--timm--resnet18.a1_in1k" / "snapshots" / "123"
    folder.mkdir(parents=True)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("123")
    _, state = published("resnet18", folder)
    net = models.build("timm/resnet18", 3, 64, pretrained=True)
    fresh = [k for k, v in net.state_dict().items() if v.shape != state[k].shape or not torch.equal(v, state[k])]
    assert fresh == ["fc.weight", "fc.bias"]
    assert "fc.weight and fc.bias, which start afresh (1000 classes there, 3 here)" in capsys.readouterr().out


def test_timm_converts_its_weights_to_other_sizes_and_channels(tmp_path):
    path, state = published("vit_tiny_patch16_224", tmp_path)
    net = models.build("timm/vit_tiny_patch16_224", 3, 64, channels=1, pretrained=True, weights=path)
    own = net.state_dict()
    assert own["pos_embed"].shape == (1, 17, 192) and state["pos_embed"].shape == (1, 197, 192)
    torch.testing.assert_close(own["patch_embed.proj.weight"], state["patch_embed.proj.weight"].sum(1, keepdim=True))
    assert torch.equal(own["blocks.3.mlp.fc1.weight"], state["blocks.3.mlp.fc1.weight"])


def test_timm_weights_trained_further_keep_their_head(tmp_path):
    net = models.build("timm/vit_tiny_patch16_224", 3, 64, arguments={"depth": 2})
    checkpoints.write({"metadata": {}, "net": net.state_dict()}, tmp_path / "a.pth")
    same_size = models.build("timm/vit_tiny_patch16_224", 3, 64, 3, {"depth": 2}, weights=tmp_path / "a.pth")
    assert same(same_size.state_dict(), net.state_dict())
    larger = models.build("timm/vit_tiny_patch16_224", 3, 96, 3, {"depth": 2}, weights=tmp_path / "a.pth")
    assert torch.equal(larger.head.weight, net.head.weight) and larger.pos_embed.shape == (1, 37, 192)


@pytest.mark.slow
def test_timm_weights_of_another_model_are_refused(tmp_path):
    path, _ = published("resnet26", tmp_path)
    assert "model.safetensors does not fit timm/resnet18" in refusal(models.build, "timm/resnet18", 3, 64, weights=path)
    assert "does not fit timm/convnext_atto" in refusal(models.build, "timm/convnext_atto", 3, 64, weights=path)
