"""timm's models, by timm's names behind the prefix `timm/`: 35 names are torchvision's too, with other weights."""

import functools
import importlib
import inspect
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import nn

from utils.errors import UsageError

TIMM = "timm/"
FILES = ("model.safetensors", "pytorch_model.bin")  # of a model's repository on the hub
CONNECT = 5.0  # seconds for the one attempt to reach the hub
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


def build(
    name: str,
    num_classes: int,
    image_size: int,
    channels: int,
    arguments: dict[str, Any],
    pretrained: bool = False,
    weights: str | Path | None = None,
) -> nn.Module:
    """See models.build.

    Raises:
        UsageError: an argument that the model does not take, or weights that are neither here nor to be had.
    """
    import timm

    short = name.removeprefix(TIMM)
    options = {"num_classes": num_classes, "in_chans": channels, **arguments}
    if weights or pretrained:
        file = Path(weights) if weights else cached_file(name)
        if file is None:
            _check_connection(name)
        if file and file.suffix != ".safetensors":  # read safely, by us
            return _with_file(build(name, num_classes, image_size, channels, arguments), name, file)
        options |= {"pretrained": True, **({"pretrained_cfg_overlay": {"file": str(file)}} if file else {})}
    try:
        return timm.create_model(short, img_size=image_size, **options)
    except TypeError as e:
        if "img_size" not in str(e):
            raise _refused(name, arguments, e) from e
    try:  # a convolutional net, which takes images of any size
        return timm.create_model(short, **options)
    except TypeError as e:
        raise _refused(name, arguments, e) from e


def _refused(name: str, arguments: dict[str, Any], e: TypeError) -> Exception:
    if not arguments:
        return e
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return UsageError(f"--model-args: {name} refuses {given}: {e}")


def _with_file(net: nn.Module, name: str, file: Path) -> nn.Module:
    from models import building
    from models import pretrained as source

    building.set_facts(net, net.num_classes)  # type: ignore[arg-type]
    state, path = source.read(file)
    source.load(net, state, path, name)
    return net


@functools.cache
def _config(name: str) -> Any:
    """timm's configuration of the model's newest weights; None where there are none."""
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(name.removeprefix(TIMM))


def cached_file(name: str) -> Path | None:
    """The weights in the hub's local cache; nothing is asked of the network."""
    from huggingface_hub import try_to_load_from_cache

    config = _config(name)
    if config is None or not config.hf_hub_id:
        return None
    for file in FILES:
        path = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or file)
        if isinstance(path, str):
            return Path(path)
    return None


def _check_connection(name: str) -> None:
    """One quick attempt: timm's own takes 46 s to find that there is no internet."""
    from huggingface_hub import constants

    config = _config(name)
    if config is None or not config.has_weights:
        raise UsageError(f"timm has no weights for {name}: leave out --pretrained")
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=CONNECT).close()
    except OSError as e:
        raise UsageError(
            f"cannot download the weights of {name} ({e}): fetch {FILES[0]} of {constants.ENDPOINT}/{config.hf_hub_id} "
            "where there is internet, and give it with --pretrained --load-path=FILE"
        ) from e


@functools.cache
def preprocessing(name: str) -> dict[str, Any]:
    """image_size, mean, std, interpolation and crop_pct that the model's weights were made for."""
    from timm.data import resolve_data_config

    config = _config(name)
    values = resolve_data_config({}, pretrained_cfg=config.to_dict() if config else {})
    interpolation = values["interpolation"] if values["interpolation"] in INTERPOLATIONS else "bicubic"
    return {
        "image_size": values["input_size"][-1],
        "mean": tuple(values["mean"]),
        "std": tuple(values["std"]),
        "interpolation": interpolation,
        "crop_pct": float(values["crop_pct"]),
    }


def facts(name: str) -> str:
    """What the model is, in words: timm's docstring, licence and preprocessing of its weights, size."""
    from timm.models import model_entrypoint

    from models.building import on_meta

    short = name.removeprefix(TIMM).partition(".")[0]
    config, own = _config(name), preprocessing(name)
    docstring = (
        inspect.getdoc(model_entrypoint(short)) or importlib.import_module(model_entrypoint(short).__module__).__doc__
    )
    size = own["image_size"]
    count = sum(p.numel() for p in on_meta(name, 1000, size).parameters())
    licence = (getattr(config, "license", None) or "unknown") if config else "unknown"
    weights = f"{config.hf_hub_id or config.url} (licence: {licence})" if config and config.has_weights else "none"
    lines = [
        " ".join((docstring or short).split("\n\n")[0].split()),
        "",
        f"Input (N, 3, {size}, {size}), {own['interpolation']}, the middle {own['crop_pct']:.0%}; mean {own['mean']}, "
        f"deviation {own['std']}.",
        f"Output logits (N, num_classes). {count:,} parameters with 1000 classes.",
        f"Weights: {weights}",
    ]
    return "\n".join(lines)
