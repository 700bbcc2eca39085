"""State dicts, ours and other programs': what is taken off them, and whether they fit a net."""

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.checkpoint_schema import REMEDY, described
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
DEPTH = 8  # of the dicts in which a state dict is looked for
FLOATS = ("float16", "bfloat16", "float32", "float64")


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
    check_tensors(state, path, of="")
    notes = [f"took the entry {' / '.join(map(repr, taken))}" + "".join(f", not {name!r}" for name in left)]
    return {"metadata": {}, "net": state, "notes": notes if taken else []}


def _is_state_dict(state: object) -> bool:
    import torch

    if not isinstance(state, dict) or not state:
        return False
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items())


def _holds_state_dict(name: object, value: object, depth: int = DEPTH) -> bool:
    """Whether an entry is a state dict of a net, or a dict that holds one; an optimizer's state is not meant."""
    if not isinstance(value, dict) or not isinstance(name, str) or "optim" in name or "sched" in name or not depth:
        return False
    return _is_state_dict(value) or any(_holds_state_dict(key, inner, depth - 1) for key, inner in value.items())


def _stray(content: dict[str, Any]) -> str:
    """What in a dict is not of a state dict."""
    import torch

    stray = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if stray:
        return f"its entry {stray[0]!r} is a {type(content[stray[0]]).__name__}"
    return "its names are no str" if content else "it is empty"


def check_tensors(state: dict, path: str | Path, of: str = "net.") -> None:
    """Raises UsageError unless all values are plain tensors: dense, with data, not quantized. Names start with `of`."""
    import torch

    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"{path} is damaged: {of}{name} is {described(value)}, expected a tensor; {REMEDY}")
        kinds = {
            "quantized": value.is_quantized,
            "nested": value.is_nested,
            "sparse": value.layout != torch.strided and not value.is_nested,
            "meta": value.is_meta,
        }
        if kind := next((kind for kind, it_is in kinds.items() if it_is), None):
            raise UsageError(f"{path}: {of}{name} is a {kind} tensor, expected a dense one with data: save it as such")


def check_values(state: dict, wanted: dict, path: str | Path) -> None:
    """Raises UsageError where an entry of `state` cannot stand for that of `wanted`, which has its shape.

    Floating point numbers of another width will do, whole numbers must be kept as they are, and what is finite in a
    fresh net must be finite.
    """
    for name, own in wanted.items():
        if shape_matches(state.get(name), own) and (wrong := _wrong(state[name], own)):
            raise UsageError(f"{path} cannot be used: its {name} {wrong}")


def _wrong(entry: "torch.Tensor", own: "torch.Tensor") -> str:
    """What is wrong with an entry, in words."""
    theirs, ours = (str(tensor.dtype).removeprefix("torch.") for tensor in (entry, own))
    if not own.is_floating_point():
        same = theirs == ours or (not entry.is_complex() and bool((entry.to(own.dtype) == entry).all()))
        return "" if same else f"is of type {theirs}, expected {ours}"
    if theirs not in FLOATS and theirs != ours:
        return f"is of type {theirs}, expected {ours}: convert it to floating point numbers"
    cast = entry.to(own.dtype)
    finite = own.isfinite().to(cast.device)
    bad = ~cast.isfinite() & finite
    if not bad.any():
        return ""
    if entry.isfinite()[bad].any():
        return f"holds numbers too large for {ours}"
    what = "NaN" if entry.isnan()[bad].any() else "infinity"
    return f"holds {what}: the training that it is from diverged; take an earlier checkpoint"


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
    if ours[1] not in (None, theirs[1]) or not same_name(theirs[0], ours[0], net):
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
    check_values(state, wanted, path)
    net.load_state_dict(state)


def same_name(theirs: str, ours: str, net: "nn.Module") -> bool:
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
