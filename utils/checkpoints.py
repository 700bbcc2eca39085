"""Checkpoints: tensors and plain types only, written whole, read safely.

A training checkpoint is a dict:
    format, model, num_classes, classes     what the net is
    net, optimizer, scheduler               states
    epoch, step, now, best_score, ...      where the run stood (engine/loop.py, State)
    metrics                                 figures of the last validation
    preprocess, config, images, machine     what val, test and a resumed training must repeat, and check
A plain state dict (`torch.save(net.state_dict())`, torchvision's weight files) reads as {"net": state dict}.

The file is torch's zip file; its zip comment is the SHA-256 of all bytes before it.
"""

import hashlib
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from utils import files
from utils.errors import UsageError

if TYPE_CHECKING:  # torch comes late: a mistyped path is refused before the seconds that it takes to import
    import torch
    from torch import nn

FORMAT = 2
SEAL, DIGITS = b"sha256=", 64  # the zip comment: the mark, and as many hexadecimal digits


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


def newest(runs: str | Path, holding: str = "last.pth") -> Path:
    """The run folder in `runs` whose file `holding` was written to last."""
    saved = sorted(Path(runs).glob(f"*/{holding}"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise UsageError(f"no run in {Path(runs)}: train first, or give a run folder")
    return saved[-1].parent


def saved_in(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest first; of the names of one file the first."""
    paths = [*sorted(folder.glob("step_*.pth"), reverse=True), folder / "last.pth", folder / "best.pth"]
    files_by_id = {}
    for path in filter(Path.is_file, paths):
        files_by_id.setdefault((path.stat().st_dev, path.stat().st_ino), path)
    return list(files_by_id.values())


def write(content: dict, path: str | Path) -> None:
    """Writes `content` to `path` whole or not at all, with the format's number and a checksum.

    Raises:
        RunError: the disk is full; a file of that name stays as it was.
    """
    import torch

    with files.atomic_write(path, "w+b") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.seek(-2, os.SEEK_END)  # the length of the zip comment, of which there is none yet
        file.write(struct.pack("<H", len(SEAL) + DIGITS) + SEAL)
        size = file.tell()
        file.write(_digest(file, size))


def _digest(file: IO[bytes], size: int) -> bytes:
    """SHA-256 of the first `size` bytes, as DIGITS digits; leaves the file's position behind them."""
    file.seek(0)
    sha = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, 2**20))):
        sha.update(chunk)
        size -= len(chunk)
    return sha.hexdigest().encode()


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
        sealed = _check_bytes(path)
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
    if "net" not in content:
        return {"net": content}
    version = content.get("format", 0)
    if version not in range(FORMAT + 1):
        raise UsageError(f"{path} was written by a newer version of this program: update it")
    if version > 1 and not sealed:
        raise UsageError(f"{path} is damaged: its checksum is missing; copy it again, or take another one")
    return _from_format_1(content) if version == 1 and "config" in content else content


def _check_bytes(path: Path) -> bool:
    """Checks the bytes against the file's own checksum: torch.load takes a flipped one without a word.

    Returns whether there was a checksum. In a file without, only the zip entries have theirs.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - DIGITS
        file.seek(max(size - len(SEAL), 0))
        sealed = file.read(len(SEAL)) == SEAL
        if sealed and file.read() != _digest(file, size):
            raise UsageError(f"{path} is damaged: its checksum does not match; copy it again, or take another one")
    if not sealed and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad:
            raise UsageError(f"{path} is damaged: the checksum of {bad} does not match")
    return sealed


def _from_format_1(content: dict) -> dict:
    """Format 1 was saved between epochs only, had torch's schedulers, and hashed names without sizes."""
    config, state = content["config"], content["scheduler"]
    lr = content["optimizer"]["param_groups"][0]["lr"]
    factor = lr / config["lr"] if config["scheduler"] == "plateau" else 1.0
    images = {"train": content["images"]["train"], "val": content["images"]["val"]}
    scheduler = {"previous_loss": state["previous_loss"], "factor": factor}
    return content | {"scheduler": scheduler, "images": images, "machine": {"threads": content["threads"]}}


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
    wrong = [k for k in wanted if not shape_matches(state.get(k), wanted[k])] + [k for k in state if k not in wanted]
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


def shape_matches(entry: object, wanted: "torch.Tensor") -> bool:
    """Whether a state dict's entry can be loaded where `wanted` stands."""
    return getattr(entry, "shape", None) == wanted.shape
