"""timm's models, by timm's names behind the prefix `timm/`: 35 names are torchvision's too, with other weights."""

import functools
import importlib
import inspect
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, model_entrypoint
from timm.models._pretrained import PretrainedCfg
from torch import nn

from models import TIMM, building, calling
from utils import checkpoints, state_dicts
from utils.errors import UsageError

FILES = ("model.safetensors", "pytorch_model.bin")  # of a model's repository on the hub
CONNECT = 5.0  # seconds for the one attempt to reach a host
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


def build(name: str, num_classes: int, image_size: int, channels: int, arguments: dict[str, Any]) -> nn.Module:
    """The net with fresh weights: (N, channels, image_size, image_size) -> logits (N, num_classes).

    Raises:
        UsageError: an argument that the model does not take.
    """
    options = {"num_classes": num_classes, "in_chans": channels}
    try:
        return _create(name, image_size, **options, **arguments)
    except calling.REFUSALS as e:
        if not arguments:
            raise
        raise calling.refused(name, arguments, e, lambda: _create(name, image_size, **options)) from e


def _create(name: str, image_size: int, **options: Any) -> nn.Module:
    """timm.create_model, with `img_size` where the model takes it: a transformer does, a convolutional net does not."""
    short = name.removeprefix(TIMM)
    try:
        return timm.create_model(short, img_size=image_size, **options)
    except TypeError as e:
        if "img_size" not in str(e):
            raise
    return timm.create_model(short, **options)


def pretrained(
    net: nn.Module, name: str, image_size: int, channels: int, arguments: dict[str, Any], weights: str | Path | None
) -> tuple[dict[str, Any], Path]:
    """A checkpoint whose weights have the names and shapes of `net`, but for its head, and the file it was read from.

    Where names, image size or channels differ, timm itself converts the file's weights.

    Args:
        weights: a local file; None: the published weights, from the hub's local cache or else downloaded.

    Raises:
        UsageError: weights that are neither here nor to be had, or that do not fit the model.
    """
    path = checkpoints.find(weights) if weights else _published(name)
    checkpoint, own = checkpoints.read(path), net.state_dict()
    state = checkpoint["net"]
    num_classes: int = net.num_classes  # type: ignore[assignment]
    plain, _ = state_dicts.without_prefix(state, own)
    if plain.keys() == own.keys() and all(
        state_dicts.shape_matches(plain[key], own[key]) or state_dicts.is_head(plain[key], own[key], num_classes)
        for key in own
    ):
        return checkpoint, path
    state_dicts.check_values(plain, own, path)  # timm casts them without a word
    config = _config(name)
    head = state.get(f"{config.classifier}.weight")
    overlay: dict[str, Any] = {"state_dict": plain}
    if head is not None and len(head) != config.num_classes + (config.label_offset or 0):
        overlay |= {"num_classes": len(head), "label_offset": 0}  # not the published file, but one trained further
    count = overlay.get("num_classes", config.num_classes)
    options = {"num_classes": count, "in_chans": channels, "pretrained_cfg_overlay": overlay, **arguments}
    try:
        converted = _create(name, image_size, pretrained=True, **options).state_dict()
    except (RuntimeError, KeyError, ValueError) as e:
        raise UsageError(f"{path} does not fit {name}: {' '.join(str(e).split())[:300]}") from e
    return checkpoint | {"net": converted}, path


@functools.cache
def _config(name: str) -> PretrainedCfg:
    """timm's configuration of the model's weights: those of the tag, else timm's choice. Empty where it has none."""
    return get_pretrained_cfg(name.removeprefix(TIMM)) or PretrainedCfg()


def _published(name: str) -> Path:
    """The file of the published weights: from the local caches, where nothing is asked of the network, or downloaded.

    Raises:
        UsageError: there are no such weights, or they cannot be downloaded: says what to fetch from where.
    """
    config = _config(name)
    if not config.has_weights:
        raise UsageError(f"timm has no weights for {name}: leave out --pretrained")
    if config.hf_hub_id:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else FILES
        paths = [try_to_load_from_cache(config.hf_hub_id, file) for file in files]
        found = [Path(path) for path in paths if isinstance(path, str)]
        url = f"{constants.ENDPOINT}/{config.hf_hub_id}/resolve/main/{files[0]}"
    else:
        url = str(config.url)
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
        found = [cached] if cached.is_file() else []
    if found:
        return found[0]
    try:
        _connect(url)
        return _from_hub(config.hf_hub_id, files) if config.hf_hub_id else _from_url(url, cached)
    except Exception as e:  # of sockets, of the hub's HTTP client, of its file system
        raise UsageError(
            f"cannot download the weights of {name} ({' '.join(str(e).split())}): fetch {url} where there is internet, "
            "and give the file with --pretrained --load-path=FILE"
        ) from e


def _connect(url: str) -> None:
    """One quick attempt to reach the host: timm's own takes 46 s to find that there is no internet."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    socket.create_connection((parts.hostname or "", port), timeout=CONNECT).close()


def _from_hub(repository: str, files: tuple[str, ...]) -> Path:
    for file in files[:-1]:
        try:
            return Path(hf_hub_download(repository, file))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, files[-1]))


def _from_url(url: str, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(file))
    return file


@functools.cache
def preprocessing(name: str) -> dict[str, Any]:
    """image_size, mean, std, interpolation and crop_pct that the model's weights were made for."""
    values = resolve_data_config({}, pretrained_cfg=_config(name).to_dict())
    interpolation = values["interpolation"] if values["interpolation"] in INTERPOLATIONS else "bicubic"
    return {
        "image_size": values["input_size"][-1],
        "mean": tuple(values["mean"]),
        "std": tuple(values["std"]),
        "interpolation": interpolation,
        "crop_pct": float(values["crop_pct"]),
    }


def facts(name: str) -> str:
    """What the model is, in words: timm's docstring, size, preprocessing, source and licence of its weights."""
    config, own, size = _config(name), preprocessing(name), preprocessing(name)["image_size"]
    function = model_entrypoint(name.removeprefix(TIMM).partition(".")[0])
    docstring = inspect.getdoc(function) or importlib.import_module(function.__module__).__doc__ or name
    count = sum(p.numel() for p in building.on_meta(name, 1000, size).parameters())
    source = f"{config.hf_hub_id or config.url} (licence: {config.license or 'unknown'})"
    lines = [
        " ".join(docstring.split("\n\n")[0].split()),
        "",
        f"Input (N, 3, {size}, {size}), {own['interpolation']}, the middle {own['crop_pct']:.0%}; mean {own['mean']}, "
        f"standard deviation {own['std']}.",
        f"Output logits (N, num_classes). {count:,} parameters with 1000 classes.",
        f"Weights: {source if config.has_weights else 'none'}",
    ]
    return "\n".join(lines)
