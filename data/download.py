"""Downloads the data sets of torchvision, or unpacks the archives that somebody put there; whole or not at all."""

import inspect
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data import idx
from data.torchvision_table import TorchvisionSet
from utils import files
from utils.errors import UsageError

ARCHIVES = (".gz", ".tgz", ".zip", ".tar", ".bz2")


def downloads(source: type) -> bool:
    passes_on = ("EMNIST", "QMNIST")  # to MNIST
    return "download" in inspect.signature(source).parameters or source.__name__ in passes_on


def download(
    name: str,
    spec: TorchvisionSet,
    source: type,
    root: Path,
    parts: list[dict[str, Any]],
    opened: Callable[..., Any],
) -> None:
    """Downloads into a folder beside, which is moved to `root` when all is there and can be read.

    Raises:
        UsageError: an archive in `root` is another one than torchvision knows, or nothing can be downloaded.
    """
    place = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    files.check_writable(root, "--train-data-root", folder=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as temp:
        links = _link_archives(source, root, Path(temp))
        try:
            if not downloads(source):
                raise RuntimeError("torchvision does not download it")
            for arguments in parts:
                source(Path(temp), **arguments, download=True)
        except (OSError, RuntimeError, ValueError) as e:
            hint = idx.find_misnamed(root / name / "raw", idx.PAIRS[name]) if name in idx.PAIRS else ""
            raise UsageError(
                f"{root} does not hold {name}, and it cannot be downloaded ({_reason(e)}). "
                f"Put there, from another machine: {spec.needed}{hint}"
            ) from e
        try:
            opened(source, Path(temp), parts)
        except Exception as e:  # torchvision raises all sorts of errors
            problem = f"the archives in {root} do not hold {name} ({_reason(e)})"
            raise UsageError(f"{problem}: put complete copies there") from e
        for link in links:
            link.unlink(missing_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        for path in Path(temp).iterdir():
            _move(path, root / path.name)


def _reason(e: Exception) -> str:
    """The last line of what torchvision says, else the kind of its error."""
    return [type(e).__name__, *str(e).strip().splitlines()][-1]


def _link_archives(source: type, root: Path, temp: Path) -> list[Path]:
    """Links to the archives in `root` and its folders, so that torchvision need not download them.

    Raises:
        UsageError: one has another MD5 than torchvision knows.
    """
    found = [path for pattern in ("*", "*/*") for path in root.glob(pattern) if path.name.endswith(ARCHIVES)]
    code = Path(inspect.getfile(source)).read_text(encoding="utf-8")
    known = set(re.findall(r"\b[0-9a-f]{32}\b", code))
    for path in found:
        if known and path.name.partition(".")[0] in code and (md5 := _md5(path)) not in known:
            raise UsageError(
                f"{path} is damaged, or another file than torchvision knows by this name (its MD5 is {md5}): put the "
                "original there"
            )
    links = [temp / path.relative_to(root) for path in found]
    for path, link in zip(found, links, strict=True):
        link.parent.mkdir(exist_ok=True)
        os.symlink(path.absolute(), link)
    return links


def _md5(path: Path) -> str:
    from torchvision.datasets.utils import calculate_md5

    return calculate_md5(str(path))


def _move(path: Path, target: Path) -> None:
    """Moves a file, or what is in a folder, in place of what was there."""
    if path.is_dir() and target.is_dir():
        for below in path.iterdir():
            _move(below, target / below.name)
    else:
        path.rename(target)
