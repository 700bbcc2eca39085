"""State dicts, ours and other programs': what is taken off them, and whether they fit a net."""

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UsageError

if TYPE_CHECKING:  # torch comes late: a mistyped path is refused before the seconds that importing it takes
    import torch
    from torch import nn

# under which other programs keep a state dict
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "model_state",
    "module",
    "params_ema",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
    "generator",
)


def unwrapped(content: dict, path: Path) -> dict[str, Any]:
    """A state dict, taken out of the entry that other programs keep it in."""
    import torch

    state, names = content, []
    while not _is_state_dict(state):
        name = next((name for name in WRAPPERS if isinstance(state.get(name), dict)), None)
        if name is None:
            stray = next((k for k, v in state.items() if not isinstance(v, torch.Tensor)), None)
            what = f"its entry {stray!r} is a {type(state[stray]).__name__}" if state else "it is empty"
            raise UsageError(f"{path} is not a state dict: {what}")
        names.append(name)
        state = state[name]
    notes = [f"took the entry {' / '.join(map(repr, names))}"] if names else []
    return {"metadata": {}, "net": state, "notes": notes}


def _is_state_dict(state: dict) -> bool:
    import torch

    return bool(state) and all(isinstance(value, torch.Tensor) for value in state.values())


def without_prefix(state: dict, wanted: dict) -> tuple[dict, str]:
    """The state dict without what all its names start with and no name of `wanted` does, and a note that names it.

    Such as `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.` (Lightning).
    """
    removed, known = "", set(wanted)
    while state and not known & set(state):
        heads = {key.partition(".")[0] for key in state}
        if len(heads) != 1 or not all("." in key for key in state):
            return (state, "") if not removed else (state, f"took off the prefix {removed!r}")
        removed += f"{heads.pop()}."
        metadata = getattr(state, "_metadata", None)
        state = OrderedDict((key.partition(".")[2], value) for key, value in state.items())
        if metadata is not None:
            state._metadata = metadata  # type: ignore[attr-defined]
    return state, f"took off the prefix {removed!r}" if removed else ""


def load_net(net: "nn.Module", checkpoint: dict[str, Any], path: str | Path, name: str | None = None) -> None:
    """Loads a checkpoint's weights into `net`, which must be the same model with the same classes.

    Args:
        name: of the model; by default its `model_name`, else the name of its class.

    Raises:
        UsageError: another model, another number of classes, or weights that do not fit; names both sides.
    """
    metadata, wanted = checkpoint.get("metadata", {}), net.state_dict()
    ours = (name or getattr(net, "model_name", type(net).__name__), getattr(net, "num_classes", None))
    theirs = (metadata.get("model") or ours[0], metadata.get("num_classes") or ours[1])
    if theirs[1] != ours[1] or not _same_name(theirs[0], ours[0], net):
        raise UsageError(f"{path} holds {theirs[0]} with {theirs[1]} classes; this is {ours[0]} with {ours[1]} classes")
    state, note = without_prefix(checkpoint["net"], wanted)
    if notes := [*checkpoint.get("notes", []), *([note] if note else [])]:
        print(f"{path}: {', '.join(notes)}")
    wrong = [k for k in wanted if not shape_matches(state.get(k), wanted[k])] + [k for k in state if k not in wanted]
    heads = [k for k in wrong if k in wanted and is_head(state.get(k), wanted[k], ours[1])]
    if wrong and not heads:
        raise UsageError(
            f"{path} does not fit {ours[0]} with {ours[1]} classes: "
            f"{len(wrong)} entries are missing, unknown or of another shape, first {wrong[0]}. "
            "(torchvision's own weights are loaded with --pretrained)"
        )
    if heads:
        raise UsageError(
            f"{path} holds {theirs[0]} with {len(state[heads[0]])} classes; this has {ours[1]}: "
            "train with --pretrained as well, to start with a new head"
        )
    net.load_state_dict(state)


def _same_name(theirs: str, ours: str, net: "nn.Module") -> bool:
    """Whether two names mean one model: an external class may lie elsewhere now, and a net that was saved by itself is
    named by its class.
    """
    return theirs.rpartition(":")[2] in (ours, ours.rpartition(":")[2], getattr(net, "model_name", None))


def is_head(entry: object, wanted: "torch.Tensor", num_classes: int | None) -> bool:
    """Whether a state dict's entry differs from `wanted`, of a net with `num_classes`, in the class count alone."""
    shape = getattr(entry, "shape", ())
    return len(shape) > 0 and shape != wanted.shape and wanted.shape == (num_classes, *shape[1:])


def shape_matches(entry: object, wanted: "torch.Tensor") -> bool:
    """Whether a state dict's entry can be loaded where `wanted` stands."""
    return getattr(entry, "shape", None) == wanted.shape
