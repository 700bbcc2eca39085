"""ImageNet weights: where they come from, and how they fit a net with another head, image size or names."""

import re
from collections import OrderedDict
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings

from models import heads
from models.building import on_meta
from utils import checkpoints, state_dicts
from utils.errors import UsageError
from utils.text import few

State = dict[str, Tensor]
POSITION = "encoder.pos_embedding"  # (1, 1 + patches, width): what ties a ViT to an image size


def read(path: str | Path) -> tuple[dict[str, Any], Path]:
    """What a local file holds, weights by torchvision's names or ours, and the path of the file that was read."""
    path = checkpoints.find(path)
    return checkpoints.read(path), path


def fetch(net: nn.Module, name: str) -> tuple[dict[str, Any], Path]:
    """torchvision's weights for `net`, as `read` gives them, and their file in its cache, downloaded where absent.

    Raises:
        UsageError: torchvision has no weights for this net, or they are neither there nor to be had.
    """
    source_name = getattr(net, "torchvision_name", None)
    if source_name is None:
        raise UsageError(f"torchvision has no weights for {name}: leave out --pretrained")
    source = get_model_weights(source_name).DEFAULT
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / source.url.rpartition("/")[2]
    if not file.is_file():
        try:
            source.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        except (OSError, HTTPException, RuntimeError) as e:  # RuntimeError: what came has another hash
            raise UsageError(
                f"cannot download the weights of {source_name} ({e}): fetch {source.url} where there is internet "
                f"and put {file.name} into {folder}, or give a local file of weights with --load-path"
            ) from e
    return read(file)


def load(
    net: nn.Module,
    checkpoint: dict[str, Any],
    path: Path,
    name: str,
    classes: list[str] | None,
    find_head: Callable[[], list[str]],
) -> None:
    """Loads the weights of `checkpoint`, which was read from `path`; prints which entries of the head start afresh.

    Args:
        classes, find_head: see heads.adapted.

    Raises:
        UsageError: the weights do not fit the net, other than by its head.
    """
    state, theirs = checkpoint["net"], checkpoint["metadata"].get("classes")
    version = getattr(state, "_metadata", None) or {"": {"version": net._version}}  # MNASNet insists on one
    own = net.state_dict()
    state, note = state_dicts.without_prefix(state, own)
    if note:
        print(f"{path.name}: {note}")
    state = _translated(state, net, own, name)
    state, renewed = heads.adapted(state, find_head, theirs, classes, net, path, renew=True)
    unlike = [k for k in own if k in state and not state_dicts.shape_matches(state[k], own[k])]
    head = [k for k in unlike if state_dicts.is_head(state[k], own[k], net.num_classes)]  # type: ignore[arg-type]
    counts = f"{len(state[head[0]])} classes there, {net.num_classes} here" if head else ""
    if renewed:
        head, counts = renewed, f"{few(theirs)} there, {few(classes or [])} here"
    kept = OrderedDict((k, v) for k, v in state.items() if k not in head)
    kept._metadata = version  # type: ignore[attr-defined]
    state_dicts.check_values(kept, own, path)
    try:
        missing, unknown = net.load_state_dict(kept, strict=False)
    except (RuntimeError, ValueError) as e:
        first = next((f"{k} has another shape" for k in unlike if k not in head), " ".join(str(e).split()))
        raise UsageError(f"{path} does not fit {name}: {first}") from e
    wrong = [f"{k} is missing" for k in missing if k not in head and not k.endswith("num_batches_tracked")]
    wrong += [f"{k} is unknown" for k in unknown if not re.match(r"(AuxLogits|aux1|aux2)\.", k)]
    if wrong:
        raise UsageError(f"{path} does not fit {name}: {wrong[0]} (1 of {len(wrong)})")
    if head:
        print(f"{path.name}: loaded all but {' and '.join(head)}, which start afresh ({counts})")


def name_map(net: nn.Module) -> dict[str, str]:
    """{torchvision's name: ours} for one of our nets, whose entries come in the same order and shapes."""
    twin, num_classes = str(net.torchvision_name), int(net.num_classes)  # type: ignore[arg-type]
    ours, theirs = net.state_dict(), on_meta(twin, num_classes, 224).state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise ValueError(f"{type(net).__name__} and torchvision's {twin} are not the same net")
    return dict(zip(theirs, ours, strict=True))


def _translated(state: State, net: nn.Module, own: State, name: str) -> State:
    """`state` with the names and the position embeddings that `net` has."""
    if getattr(net, "torchvision_name", None) not in (None, name):
        ours = name_map(net)
        if len(state.keys() & ours.keys()) > len(state.keys() & own.keys()):  # a few names are both
            return {ours.get(k, k): v for k, v in state.items()}
    if name.startswith("densenet"):  # torchvision's files say norm.1 where its net says norm1
        old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
        return {old.sub(r"\1\2.", k): v for k, v in state.items()}
    if name.startswith("vit_") and POSITION in state and state[POSITION].shape != own[POSITION].shape:
        return interpolate_embeddings(net.image_size, net.patch_size, OrderedDict(state))
    return state
