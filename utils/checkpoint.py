"""Checkpoints: tensors and plain types only, written whole, read safely.

A training checkpoint is a dict:
    format, model, num_classes, classes     what the net is
    net, optimizer, scheduler, rng          states
    epoch, step, best_score, best_epoch     where the run stood
    metrics                                 figures of the last validation
    preprocess, config, images, threads     what val and test must repeat, and check
A plain state dict (`torch.save(net.state_dict())`, torchvision's weight files) reads as {"net": state dict}.
"""

import os
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from utils import files
from utils.errors import UsageError

if TYPE_CHECKING:  # torch comes late: a mistyped path is refused before the seconds that it takes to import
    import torch
    from torch import nn

FORMAT = 1


def find(path: str | Path, runs: str | Path = "checkpoints") -> Path:
    """The checkpoint file meant by `path`: a file, or a run folder's best.pth (last.pth where there is no best).

    `last` means the newest run folder in `runs`.
    """
    path = newest(runs) if str(path) == "last" else Path(path).expanduser()
    if path.is_dir():
        for name in ("best.pth", "last.pth"):
            if (path / name).is_file():
                return path / name
        raise UsageError(f"{path} holds neither best.pth nor last.pth: give a run folder or a checkpoint file")
    if not path.is_file():
        raise UsageError(f"no checkpoint {path}: give a .pth file or a run folder (checkpoints/...)")
    return path


def newest(runs: str | Path) -> Path:
    """The run folder in `runs` that was written to last."""
    saved = sorted(Path(runs).glob("*/last.pth"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise UsageError(f"no run in {Path(runs)}: train first, or give a run folder")
    return saved[-1].parent


def write(content: dict, path: str | Path) -> None:
    """Writes `content` to `path` whole or not at all, stamped with the format's number."""
    import torch

    with files.whole(path, "wb") as file:
        torch.save({"format": FORMAT, **content}, file)


def link(path: Path, other: Path) -> None:
    """Makes `other` the same file as `path`, whole or not at all, without writing the bytes again where possible."""
    temp = other.with_name(f".{other.name}.part")
    temp.unlink(missing_ok=True)
    try:
        os.link(path, temp)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, temp)
    os.replace(temp, other)


def read(path: str | Path) -> dict:
    """Reads a checkpoint to the CPU without running any code from it.

    Raises:
        UsageError: there is no such file, it is damaged, or it holds more than tensors and plain types.
    """
    import torch

    path = find(path)
    try:
        _check_bytes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise UsageError(f"{path} is refused: it is no checkpoint, or it would run code when loaded") from e
    except (EOFError, OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as e:
        state = "damaged or no checkpoint at all" if path.stat().st_size else "empty"
        raise UsageError(f"{path} is {state}: copy it again, or take another one") from e
    if not isinstance(content, dict) or not isinstance(content.get("net", {}), dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a checkpoint or a state dict")
    if content.get("format", FORMAT) not in range(FORMAT + 1):
        raise UsageError(f"{path} was written by a newer version of this program: update it")
    return content if "net" in content else {"net": content}


def _check_bytes(path: Path) -> None:
    """torch.load takes a flipped byte in a tensor without a word; the zip file's own checksums find it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad:
            raise UsageError(f"{path} is damaged: the checksum of {bad} does not match")


def load_net(net: "nn.Module", content: dict, path: str | Path) -> None:
    """Loads a checkpoint's weights into `net`, which must be the same model with the same classes.

    Raises:
        UsageError: another model, another number of classes, or weights that do not fit; names both sides.
    """
    ours = (getattr(net, "model_name", type(net).__name__), getattr(net, "num_classes", None))
    theirs = (content.get("model", ours[0]), content.get("num_classes", ours[1]))
    if ours != theirs:
        raise UsageError(f"{path} holds {theirs[0]} with {theirs[1]} classes; this is {ours[0]} with {ours[1]} classes")
    state, wanted = content["net"], net.state_dict()
    wrong = [k for k in wanted if not fits(state.get(k), wanted[k])] + [k for k in state if k not in wanted]
    heads = [k for k in wrong if k in wanted and is_head(state.get(k), wanted[k], ours[1])]
    if wrong and not heads:
        raise UsageError(
            f"{path} does not fit {ours[0]} with {ours[1]} classes: "
            f"{len(wrong)} entries are missing, unknown or of another shape, first {wrong[0]}. "
            "(torchvision's own weights are taken with --pretrained)"
        )
    if heads:
        raise UsageError(
            f"{path} holds {theirs[0]} with {len(state[heads[0]])} classes; this has {ours[1]}: "
            "train with --pretrained as well, to start with a new head"
        )
    net.load_state_dict(state)


def is_head(entry: object, wanted: "torch.Tensor", num_classes: int | None) -> bool:
    """Whether a state dict's entry differs from `wanted`, of a net with `num_classes`, in the class count alone."""
    shape = getattr(entry, "shape", ())
    return len(shape) > 0 and shape != wanted.shape and wanted.shape == (num_classes, *shape[1:])


def fits(entry: object, wanted: "torch.Tensor") -> bool:
    """Whether a state dict's entry can be loaded where `wanted` stands."""
    return getattr(entry, "shape", None) == wanted.shape
