"""Checkpoints: tensors and plain types only, written whole, read safely.

A checkpoint is a dict, nested by owner:
    format    3
    metadata  what val, test and a resumed training must know and check: model, model_args, task, num_classes, classes,
              preprocess, images, machine, config
    net       state dict of the net to use
    task      what else the task needs to train on: states of optimizers, schedules, averages
    trainer   where the run stands (engine/state.py)
The formats before, and weights of other programs, are read as well (old_checkpoints.py, `read`).

The file is torch's zip file; its zip comment is the SHA-256 of all bytes before it.
"""

import argparse
import hashlib
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from utils import checkpoint_schema, exported, files, old_checkpoints, state_dicts
from utils.errors import UsageError, install

FORMAT = 3
SEAL, DIGITS = b"sha256=", 64  # the zip comment: the mark, and as many hexadecimal digits


def find(path: str | Path, runs: str | Path = "checkpoints") -> Path:
    """The checkpoint file meant by `path`: a file, or a run folder's best.pth (last.pth where there is no best).

    `last` means the newest run folder in `runs`; the name of one there will do, too.
    """
    path = newest(runs) if str(path) == "last" else named(path, runs)
    if os.path.isdir(path):
        for name in ("best.pth", "last.pth"):
            if (path / name).is_file():
                return path / name
        raise UsageError(f"{path} holds neither best.pth nor last.pth: give a run folder or a checkpoint file")
    if not os.path.isfile(path):
        raise UsageError(f"no checkpoint {path}: give a .pth file or a run folder (checkpoints/...)")
    return path


def named(path: str | Path, runs: str | Path) -> Path:
    """The path, or the folder of this name in `runs` where there is nothing of that path."""
    path = Path(os.path.expanduser(path))
    return Path(runs, path) if not os.path.exists(path) and os.path.isdir(Path(runs, path)) else path


def newest(runs: str | Path, holding: str = "last.pth") -> Path:
    """The run folder in `runs` whose file `holding` was written to last."""
    saved = sorted(Path(runs).glob(f"*/{holding}"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise UsageError(f"no run in {Path(runs)}: train first, or give a run folder")
    return saved[-1].parent


def saved_in(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest first; of the names of one file the first."""
    paths = [*sorted(folder.glob("step_*.pth"), reverse=True), folder / "last.pth", folder / "best.pth"]
    files_by_id: dict[tuple[int, int], Path] = {}
    for path in filter(Path.is_file, paths):
        files_by_id.setdefault((path.stat().st_dev, path.stat().st_ino), path)
    return list(files_by_id.values())


def write(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Writes `checkpoint` to `path` whole or not at all, with the format's number and a checksum.

    Raises:
        RunError: the disk is full; a file of that name stays as it was.
    """
    import torch

    with files.atomic_write(path, "w+b") as file:
        torch.save({"format": FORMAT, **checkpoint}, file)
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
    temp = other.with_name(f".{other.name}{files.PART}")
    with files.disk_errors_as_failure(other):
        temp.unlink(missing_ok=True)
        try:
            os.link(path, temp)
        except OSError:  # a file system without hard links
            with path.open("rb") as source, files.atomic_write(other, "wb") as file:
                shutil.copyfileobj(source, file)
        else:
            os.replace(temp, other)
            files.sync_folder(other.parent)


def read(path: str | Path, nets: bool = False) -> dict[str, Any]:
    """Reads a checkpoint to the CPU without running any code from it, as the dict described above.

    Of plain weights the dict holds "metadata" ({} or the model's name and class count), "net", and "notes": lines on
    wrappers that were taken off. Of a file with a net, which `export` has written, "net" is {} (utils/exported.py).

    Args:
        nets: take such a file, too.

    Raises:
        UsageError: there is no such file, it is damaged, holds more than tensors and plain types, or lacks what
            such a file must hold (checkpoint_schema.py).
    """
    path = find(path)
    if path.suffix in exported.NETS:
        if not nets:
            raise UsageError(f"{path} holds a net, not its weights: give the run, a .pth or a .safetensors file")
        return exported.read(path)
    try:
        sealed = _check_bytes(path)
        content = _load(path)
    except UsageError:
        raise
    except pickle.UnpicklingError as e:
        raise UsageError(_why_refused(path, str(e))) from e
    except PermissionError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}") from e
    except Exception as e:  # what torch raises on a file that is none depends on its bytes
        state = "damaged or not a checkpoint at all" if path.stat().st_size else "empty"
        raise UsageError(f"{path} is {state}: {checkpoint_schema.REMEDY}") from e
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a checkpoint or a state dict")
    version = content.get("format", 0)
    if sealed:
        checkpoint_schema.check(content, {"format": checkpoint_schema.COUNT}, path)
    elif type(version) is not int:
        version = 0  # another program's word
    if version == 0:
        return state_dicts.unwrapped(content, path) | _of_export(path)
    if version > FORMAT:
        raise UsageError(f"{path} was written by a newer version of this program: update it")
    if version < 0 or (version > 1 and not sealed):
        what = "its checksum is missing" if version > 0 else f"its format is {version}"
        raise UsageError(f"{path} is damaged: {what}; {checkpoint_schema.REMEDY}")
    if version < FORMAT:
        checkpoint_schema.check_flat(content, path)
        content = old_checkpoints.converted(content)
    checkpoint_schema.check_nested(content, path)
    state_dicts.check_tensors(content["net"], path)
    return content


def _of_export(path: Path) -> dict[str, Any]:
    """What `export` has written into a file of safetensors, beside the weights."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found = exported.from_texts(file.metadata() or {}, path) or {}
    return {name: found[name] for name in ("metadata", "trainer") if name in found}


def _load(path: Path) -> Any:
    """What a file holds; of safetensors, too. torch.load takes nothing from it that could run code."""
    import torch

    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as e:
            raise UsageError(f"{path}: to read such a file, type {install('safetensors')}") from e
        return load_file(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):  # timm saves its options
        warnings.simplefilter("ignore")  # on old pickle protocols
        return torch.load(path, map_location="cpu", weights_only=True)


def _why_refused(path: Path, message: str) -> str:
    """The line for a file whose loading would call more than tensors need; `message` is torch's."""
    import torch

    calls = re.findall(r"GLOBAL ([\w.]+)", message)
    with suppress(Exception):  # a file in the format before torch's zip files, or damaged as well
        calls = torch.serialization.get_unsafe_globals_in_checkpoint(path) or calls
    if any(name.startswith("torch.nn.modules.") for name in calls):
        return (
            f"{path} is refused: it holds a whole net, which would run code when loaded: save its state_dict() instead"
        )
    if not calls:
        return f"{path} is refused: it is not a checkpoint, or it would run code when loaded"
    return f"{path} is refused: it would call {calls[0]} when loaded: save the net's state_dict() instead"


def _check_bytes(path: Path) -> bool:
    """Checks the bytes against the file's own checksum: torch.load takes a flipped one without a word.

    Returns whether there was a checksum. In a file without, only the zip entries have theirs.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - DIGITS
        file.seek(max(size - len(SEAL), 0))
        sealed = file.read(len(SEAL)) == SEAL
        if sealed and file.read() != _digest(file, size):
            raise UsageError(f"{path} is damaged: its checksum does not match; {checkpoint_schema.REMEDY}")
    if not sealed and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad:
            raise UsageError(f"{path} is damaged: the checksum of {bad} does not match")
    return sealed
