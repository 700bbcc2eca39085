"""What is written in the files that `export` makes: read without running the net.

The texts in a file, by name, are for whoever uses it (predict.py reads them), and for this program:
    classes, mean, std, image_size, crop_pct, interpolation   what a picture goes through, and what comes out
    input, output   names of both, see export/graph.py
    run, epoch      where the weights come from
    checkpoint      the rest of what a checkpoint says of itself, as JSON
"""

import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils import checkpoint_schema
from utils.errors import UsageError, install
from utils.text import without_home

NETS = (".onnx", ".pt2")  # endings of files that hold a net, not weights for one
EXTRA = "metadata.json"  # of a .pt2 file


def texts(checkpoint: Mapping[str, Any], run: str, **more: str) -> dict[str, str]:
    """What a file says of a checkpoint; paths in the user's home begin with ~."""
    metadata = {name: value for name, value in checkpoint["metadata"].items() if name != "machine"}
    preprocess = metadata["preprocess"]
    epoch = checkpoint.get("trainer", {}).get("epoch")
    kept = json.dumps({"metadata": metadata, "epoch": epoch}, ensure_ascii=False)
    found = {name: preprocess[name] for name in ("mean", "std", "image_size", "crop_pct", "interpolation")}
    found = {name: json.dumps(value) for name, value in {"classes": metadata["classes"], **found}.items()}
    return found | more | {"run": run, "epoch": str(epoch or ""), "checkpoint": without_home(kept)}


def read(path: Path) -> dict[str, Any]:
    """A file with a net as a checkpoint that has no weights: metadata, net ({}), trainer (epoch), texts.

    Raises:
        UsageError: it is damaged, or `export` has not written it, or it takes a package that is not installed.
    """
    found = from_texts(_of_onnx(path) if path.suffix == ".onnx" else _of_torch(path), path)
    if found is None:
        raise UsageError(f"{path} does not say what it is: `main.py export` writes such files with what val needs")
    return found


def from_texts(found: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """The checkpoint that the texts of a file tell of, without weights; None where they tell of none.

    Raises:
        UsageError: they are damaged.
    """
    try:
        told = json.loads(found["checkpoint"])
        metadata = {**told["metadata"], "machine": {}}
        epoch = {"epoch": told["epoch"]} if told["epoch"] else {}
    except KeyError:
        return None
    except (ValueError, TypeError, RecursionError) as e:
        raise UsageError(f"{path} is damaged: {checkpoint_schema.REMEDY}") from e
    whole = {"metadata": metadata, "net": {}, "task": {}, "trainer": {"epoch": 0, "step": 0, "best_epoch": 0}}
    if "config" in metadata:
        checkpoint_schema.check_nested(whole, path)
    return {"metadata": metadata, "net": {}, "texts": dict(found)} | ({"trainer": epoch} if epoch else {})


def onnxruntime() -> Any:
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as e:
        raise UsageError(f"files in the format ONNX need the package onnxruntime: {install('onnxruntime')}") from e
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _of_onnx(path: Path) -> dict[str, str]:
    package = onnxruntime()
    options = package.SessionOptions()
    options.graph_optimization_level = package.GraphOptimizationLevel.ORT_DISABLE_ALL  # it does not run
    try:
        session = package.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return session.get_modelmeta().custom_metadata_map
    except Exception as e:  # the package has a class for each kind of damage
        raise UsageError(f"{path} is damaged, or no ONNX file: {str(e).splitlines()[0]}") from e


def _of_torch(path: Path) -> dict[str, str]:
    with suppress(OSError, zipfile.BadZipFile, ValueError, KeyError), zipfile.ZipFile(path) as archive:
        if name := next((name for name in archive.namelist() if name.endswith(EXTRA)), None):
            found = json.loads(archive.read(name))
            return found if isinstance(found, dict) else {}
        return {}
    raise UsageError(f"{path} is damaged, or no file of torch.export: {checkpoint_schema.REMEDY}")
