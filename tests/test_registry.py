"""Names are found without importing anything, and a wrong one is refused in one useful line."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import registry
from utils.errors import UsageError

ROOT = Path(__file__).parent.parent


def write(folder: Path, **files: str) -> Path:
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text, encoding="utf-8")
    return folder


def test_scan_finds_classes_that_derive_from_the_base(tmp_path):
    folder = write(
        tmp_path,
        base="class Base: pass",
        one='import nothing_like_this\nclass One(pkg.base.Base):\n    """First.\n\n    More.\n    """',
        two="class Two(One): pass\nclass _Hidden(Base): pass\nclass Three(Mixin, _Hidden): pass",
        _private="class Four(Base): pass",
    )
    found = registry.scan(folder, "Base")
    assert list(found) == ["One", "Three", "Two"]
    assert found["One"] == registry.Entry(
        "One", f"{tmp_path.name}.one", tmp_path / "one.py", "First.\n\nMore.", ("Base",), {}, None
    )
    assert found["Three"].bases == ("Mixin", "_Hidden") and found["Two"].docstring == ""


def test_constants_are_inherited_within_the_folder(tmp_path):
    base = 'class Base:\n    kind = "a"\n    size: int = 3\n'
    text = base + 'class One(Base): pass\nclass Two(One, lib.Two):\n    kind = "b"'
    found = registry.scan(write(tmp_path, base=text), "Base")
    assert found["One"].constants == {"kind": "a", "size": 3}
    assert found["Two"].constants == {"kind": "b", "size": 3}


def test_scan_refuses_a_name_in_two_files(tmp_path):
    folder = write(tmp_path, a="class Net(Base): pass", b="class Net(Base): pass")
    with pytest.raises(ValueError, match=r"Net is defined twice: in .*a\.py and .*b\.py"):
        registry.scan(folder, "Base")


def test_helpers_of_one_name_in_two_files_are_no_duplicate(tmp_path):
    text = "class Block: pass\nclass {}(Base): pass"
    folder = write(tmp_path, a=text.format("A"), b=text.format("B"))
    assert list(registry.scan(folder, "Base")) == ["A", "B"]


def test_scan_is_fast():
    start = time.perf_counter()
    registry.scan(ROOT / "models", "BasicModule")
    assert time.perf_counter() - start < 0.5  # a few ms; the margin is for a busy machine


MORE = {"torchvision": ["resnet34", "resnet50", "vit_b_16"]}


@pytest.mark.parametrize(
    "typed, meant",
    [("ResNet34", "ResNet34"), ("resnet34", "resnet34"), ("alexnet", "AlexNet"), ("ViT_B_16", "vit_b_16")],
)
def test_find_takes_the_exact_name_else_the_one_that_differs_by_case(typed, meant):
    assert registry.find(typed, ["AlexNet", "ResNet34"], "model", MORE) == meant


@pytest.mark.parametrize(
    "typed, message",
    [
        ("ResNet43", "unknown model 'ResNet43': the models are AlexNet, ResNet34 (and 3 of torchvision)."
                     " Did you mean ResNet34?"),
        ("qqq", "unknown model 'qqq': the models are AlexNet, ResNet34 (and 3 of torchvision)."),
        ("RESNET34", "model 'RESNET34' may be ResNet34 or resnet34: type the one you mean"),
    ],
)  # fmt: skip
def test_find_refuses_an_unknown_name_in_one_line(typed, message):
    with pytest.raises(UsageError) as e:
        registry.find(typed, ["AlexNet", "ResNet34"], "model", MORE)
    assert str(e.value) == message


def test_find_cuts_a_long_list_and_survives_an_empty_one():
    with pytest.raises(UsageError) as e:
        registry.find("x", [f"data{i}" for i in range(100)], "data set")
    told = str(e.value)
    assert "data0, data1," in told and "... (100 in all)" in told and "data50" not in told
    with pytest.raises(UsageError, match="the presets are none"):
        registry.find("x", [], "preset")


def test_names_and_help_import_no_torch():
    code = (
        "import models, sys; models.names(); models.torchvision_names(); models.describe('ResNet34');"
        "models.find('AlexNet'); dir(models); assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
