"""Names are found without importing anything, and a wrong one is refused in one useful line."""

import subprocess
import sys
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


BROKEN = {
    "a name in two files": (b"class Net(Base): pass", r"Net is defined twice, in .*a\.py and .*b\.py"),
    "no Python": (b"\n\nclass Net(Base: pass", r"b\.py, line 3: cannot be read as Python"),
    "no text": (b"\xff = 1", r"b\.py.*: cannot be read as Python"),
    "a zero byte": (b"x = '\0'", r"b\.py.*: cannot be read as Python"),
    "nested too deep": (b"x = " + b"-" * 100_000 + b"1", r"b\.py.*: cannot be read as Python"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_left_out_and_told_of(kind, tmp_path):
    folder = write(tmp_path, a="class Net(Base): pass\nclass Good(Base): pass")
    text, message = BROKEN[kind]
    (folder / "b.py").write_bytes(text)
    found = registry.scan(folder, "Base")
    assert list(found) == (["Good"] if "two files" in kind else ["Good", "Net"])
    with pytest.raises(UsageError, match=rf"unknown model 'Gone'.* Left out: .*{message}"):
        registry.find("Gone", found, "model", folder=folder)
    (folder / "b.py").unlink()
    assert list(registry.scan(folder, "Base")) == ["Good", "Net"] and registry.broken(folder) == []


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfclass Net: pass", b"# coding: latin-1\n# \xe9\nclass Net: pass"])
def test_a_file_is_read_in_its_own_encoding(text, tmp_path):
    (tmp_path / "net.py").write_bytes(text)
    assert registry.external(f"{tmp_path}/net.py:Net", "model").name == "Net"


def test_helpers_of_one_name_in_two_files_are_no_duplicate(tmp_path):
    text = "class Block: pass\nclass {}(Base): pass"
    folder = write(tmp_path, a=text.format("A"), b=text.format("B"))
    assert list(registry.scan(folder, "Base")) == ["A", "B"]


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


# ---- code outside of the repository

NET = "class Net:\n    '''A net.'''\n    task = 'Classify'\n    def __init__(self, num_classes, width=8): pass\n"


def external(name: str) -> registry.Entry:
    return registry.external(str(name), "model")


def refusal(name: str) -> str:
    """The text of the UsageError for an external name: one line."""
    with pytest.raises(UsageError) as e:
        external(name)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_an_external_class_is_read_and_not_run(tmp_path):
    write(tmp_path, net=NET + f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    entry = external(f"{tmp_path}/net.py:Net")
    assert (entry.name, entry.docstring, entry.parameters) == ("Net", "A net.", ("num_classes", "width"))
    assert entry.constants == {"task": "Classify"} and not (tmp_path / "ran").exists()
    assert registry.load(f"{tmp_path}/net.py:Net", "model").__name__ == "Net" and (tmp_path / "ran").exists()


def test_the_packages_on_the_way_are_not_run_either(tmp_path, monkeypatch):
    (tmp_path / "outer_of_test").mkdir()
    write(tmp_path / "outer_of_test", __init__="raise RuntimeError('was run')", inner=NET)
    monkeypatch.syspath_prepend(tmp_path)
    assert external("outer_of_test.inner:Net").path == tmp_path / "outer_of_test" / "inner.py"
    with pytest.raises(RuntimeError, match="was run"):  # a bug of the user's keeps its traceback
        registry.load("outer_of_test.inner:Net", "model")


def test_a_module_of_the_working_folder(tmp_path, monkeypatch):
    write(tmp_path, net_of_test=NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert registry.load("net_of_test:Net", "model").task == "Classify"
    assert registry.load("net_of_test.py:Net", "model").task == "Classify"


@pytest.mark.parametrize(
    "name, message",
    [
        ("{}/none.py:Net", "no file {}/none.py for the model '{}/none.py:Net': type path/to/file.py:NAME"),
        ("{}/net.txt:Net", "{}/net.txt does not end in .py for the model '{}/net.txt:Net': type path/to/file.py:NAME"),
        ("no_such.module:Net", "no Python module 'no_such.module'"),
        ("os.path.deeper:Net", "no Python module 'os.path.deeper'"),
        ("..x:Net", "no Python module '..x'"),
        ("{}/net.py:Nett", "{}/net.py defines no 'Nett': it defines Net; type {}/net.py:NAME. Did you mean Net?"),
        ("{}/net.py:inner", "{}/net.py defines no 'inner'"),
        ("{}/net.py:", "{}/net.py: names no model: it defines Net"),
        ("{}/broken.py:Net", "{}/broken.py, line 2: cannot be read as Python: "),
    ],
)
def test_a_wrong_external_name_is_refused_in_one_line(name, message, tmp_path):
    write(tmp_path, net=NET + "def _f():\n    inner = 1\n", broken="x = 1\nclass Net(:\n")
    (tmp_path / "net.txt").write_text(NET)
    assert refusal(name.replace("{}", str(tmp_path))).startswith(message.replace("{}", str(tmp_path)))


@pytest.mark.parametrize(
    "text",
    [
        "from net_beside import Net",
        "import net_beside\nNet = net_beside.Net",
        "from net_beside import Other as Net",
        "from net_beside import *",
        "try:\n    from nothing_like_this import Net\nexcept ImportError:\n    from net_beside import Net",
        "if True:\n    class Net: task = 'Classify'",
        "class Net: task = 'Classify'",
    ],
)
def test_a_class_that_a_file_imports_from_the_one_beside_it(text, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "net_beside", raising=False)
    write(tmp_path, net_beside=NET + "Other = Net\n", main=text)
    name = f"{tmp_path}/main.py:Net"
    assert external(name).name == "Net" and registry.load(name, "model").task == "Classify"


def test_a_name_that_star_imports_do_not_bring_is_refused_once_the_file_has_run(tmp_path):
    write(tmp_path, main="from math import *")
    with pytest.raises(UsageError, match=r"main\.py defines no 'Net' once it has run"):
        registry.load(f"{tmp_path}/main.py:Net", "model")


def test_an_external_function_and_its_arguments(tmp_path):
    write(tmp_path, main="def small(num_classes, *, depth=2): return depth\ndef any_of_them(**options): pass")
    assert external(f"{tmp_path}/main.py:small").parameters == ("num_classes", "depth")
    assert external(f"{tmp_path}/main.py:any_of_them").parameters is None
    assert registry.load(f"{tmp_path}/main.py:small", "model")(3) == 2


def test_bases_constants_and_arguments_come_from_the_bases_in_the_file(tmp_path):
    write(tmp_path, main=NET + "class Wide(lib.ResNet34, Net): dataset = 'X'\nclass Wider(Wide): pass")
    entry = external(f"{tmp_path}/main.py:Wider")
    assert entry.bases == ("Wide", "ResNet34", "Net")
    assert entry.constants == {"task": "Classify", "dataset": "X"} and entry.parameters == ("num_classes", "width")


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, net=f"class Net: value = {value}")
    assert [registry.load(f"{tmp_path}/{folder}/net.py:Net", "model").value for folder in "ab"] == [1, 2]


def test_a_file_that_fails_keeps_its_traceback_and_can_be_tried_again(tmp_path):
    write(tmp_path, net=NET + "1 / 0")
    with pytest.raises(ZeroDivisionError):
        registry.load(f"{tmp_path}/net.py:Net", "model")
    write(tmp_path, net=NET)
    assert registry.load(f"{tmp_path}/net.py:Net", "model").task == "Classify"


def test_classes_functions_and_instances_given_in_python():
    class Net:
        """A net."""

        task = "Own"

        def __init__(self, width=3):
            self.width = width

    def make(depth):
        return Net(depth)

    for target, parameters in ((Net, ("width",)), (make, ("depth",))):
        name = registry.register(target)
        assert registry.is_external(name) and registry.given(name) and registry.load(name, "model") is target
        assert external(name).parameters == parameters
    net = Net(5)
    assert registry.load(registry.register(net), "model") is net
    entry = external(registry.register(Net))
    assert (entry.docstring, entry.constants["task"], entry.path) == ("A net.", "Own", Path(__file__))
    assert not registry.given("elsewhere:Net")
