"""State dicts, ours and other programs': what is taken off them, and whether they fit a net."""

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UsageError

if TYPE_CHECKING:  # torch comes late: a mistyped path is refused before the seconds that importing it takes
    import torch
    from torch import nn

# Under which other programs keep a state dict; where a file holds several, the first of these. Averaged weights come
# first: they are the result of such a training.
WRAPPERS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "params_ema", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network"),
    *("weights", "params", "module"),
)


def unwrapped(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A state dict, taken out of the entry that other programs keep it in.

    Returns:
        {"metadata": {}, "net": state dict, "notes": [which entry was taken, and of which others]}.

    Raises:
        UsageError: there is none, or several and no telling which is meant.
    """
    state, taken, left = content, [], []
    while not _is_state_dict(state):
        names = [name for name, value in state.items() if _holds_state_dict(name, value)]
        wrappers = [name for name in WRAPPERS if name in names]
        if not names:
            raise UsageError(f"{path} is not a state dict: {_stray(content)}")
        if len(names) > 1 and not wrappers:
            raise UsageError(
                f"{path} holds {len(names)} state dicts, {', '.join(map(str, names))}: save the one you mean by itself"
            )
        name = wrappers[0] if wrappers else names[0]
        taken.append(name)
        left += [other for other in names if other != name]
        state = state[name]
    notes = [f"took the entry {' / '.join(map(repr, taken))}" + "".join(f", not {name!r}" for name in left)]
    return {"metadata": {}, "net": state, "notes": notes if taken else []}


def _is_state_dict(state: object) -> bool:
    import torch

    return isinstance(state, dict) and bool(state) and all(isinstance(value, torch.Tensor) for value in state.values())


def _holds_state_dict(name: object, value: object) -> bool:
    """Whether an entry is a state dict of a net, or a dict that holds one; an optimizer's state is not meant."""
    if not isinstance(value, dict) or not isinstance(name, str) or "optim" in name or "sched" in name:
        return False
    return _is_state_dict(value) or any(_holds_state_dict(key, inner) for key, inner in value.items())


def _stray(content: dict[str, Any]) -> str:
    """What in a dict is not of a state dict."""
    import torch

    stray = next((name for name, value in content.items() if not isinstance(value, torch.Tensor)), None)
    return f"its entry {stray!r} is a {type(content[stray]).__name__}" if stray is not None else "it is empty"


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
    ours: tuple[str, int | None]
    ours = (name or getattr(net, "model_name", None) or type(net).__name__, getattr(net, "num_classes", None))
    theirs = (metadata.get("model") or ours[0], metadata.get("num_classes") or ours[1])
    if ours[1] not in (None, theirs[1]) or not _same_name(theirs[0], ours[0], net):
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
    named by its class or its `model_name`.
    """
    known = (ours, ours.rpartition(":")[2], type(net).__name__, getattr(net, "model_name", None))
    return theirs.rpartition(":")[2] in known


def is_head(entry: object, wanted: "torch.Tensor", num_classes: int | None) -> bool:
    """Whether a state dict's entry differs from `wanted`, of a net with `num_classes`, in the class count alone."""
    shape = getattr(entry, "shape", ())
    return len(shape) > 0 and shape != wanted.shape and wanted.shape == (num_classes, *shape[1:])


def shape_matches(entry: object, wanted: "torch.Tensor") -> bool:
    """Whether a state dict's entry can be loaded where `wanted` stands."""
    return getattr(entry, "shape", None) == wanted.shape
