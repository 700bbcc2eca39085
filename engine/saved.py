"""What the commands that use a checkpoint start from: the checkpoint, and the options that go with it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import data
import models
from cli.resolve import OF_CHECKPOINT, resolve
from config import CODE, OF_FILE, Config
from data.image_data import ImageData
from engine.resume import check_named, for_this_machine, named_by
from utils import checkpoints, files, registry
from utils.errors import UsageError
from utils.options import dashed

OUTPUTS: dict[str, dict[str, tuple[str, ...]]] = {  # options that name what is written, and the endings (none: any)
    "test": {"result_file": ()},
    "generate": {"gen_img": (".png",), "gen_walk": (".gif", ".png"), "gen_folder": ()},
    "explain": {"heatmap_folder": ()},
    "features": {"features_file": (".npy", ".csv")},
    "export": {"export_folder": ()},
    "predict": {"least_sure": (".html",)},
}
OF_SEVERAL = ("val", "test", "predict")  # an ensemble
SHOWN = 5  # class names in a line


def load_saved(command: str, flags: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The options for using a checkpoint, and the checkpoint; flags override the saved options.

    Raises:
        UsageError: no checkpoint is named, it does not fit the flags, or a path cannot be read or written.
    """
    given = resolve(command, {name: value for name, value in flags.items() if name != "dataset"})
    if given.load_path is None:
        raise UsageError(f"{command} needs a checkpoint: --load-path=checkpoints/RUN (a run folder or a .pth file)")
    _check_paths(command, given, flags)
    if command in OF_SEVERAL and "," in given.load_path and not os.path.exists(given.load_path):
        return _load_several(command, flags, given.load_path.split(","))
    path = checkpoints.find(given.load_path, given.checkpoint_dir)
    checkpoint = checkpoints.read(path, nets=command in OF_FILE and command != "export")
    named = named_by(flags)
    if "config" not in checkpoint["metadata"]:
        if command == "generate" or "model" not in named:
            raise UsageError(
                f"{path} holds weights only: say whose, as --model=ResNet34 (val, test), or train from it with "
                f"train --load-path={path}"
            )
        return _from_weights(command, flags, checkpoint, path)
    return _from_checkpoint(command, flags, named, checkpoint, path), checkpoint


def _load_several(command: str, flags: Mapping[str, Any], paths: list[str]) -> tuple[Config, dict[str, Any]]:
    """The options of the first of several checkpoints, and it, with the others in its entry "others" by their paths."""
    parts = [load_saved(command, {**flags, "load_path": path}) for path in paths]
    (opt, checkpoint), *others = parts
    if len({part.load_path for part, _ in parts}) < len(parts):
        raise UsageError(f"--load-path={','.join(paths)} names one checkpoint twice")
    return opt, checkpoint | {"others": {str(part.load_path): other for part, other in others}}


def open_dataset(opt: Config, checkpoint: Mapping[str, Any]) -> ImageData:
    """The data set that the options name.

    Raises:
        UsageError: it cannot be opened, or its classes are not those of the checkpoint.
    """
    dataset, classes = data.open(opt.dataset, opt.train_data_root), checkpoint["metadata"]["classes"]
    if dataset.classes != classes:
        raise UsageError(f"{dataset.root} has the classes {dataset.classes}; the checkpoint {classes}")
    return dataset


def _check_paths(command: str, given: Config, flags: Mapping[str, Any]) -> None:
    for name in {"train_data_root", "test_data_root"} & flags.keys():
        if not os.path.exists(getattr(given, name) or "."):
            raise UsageError(f"--{dashed(name)}: there is no {getattr(given, name)}")
    for name, endings in OUTPUTS.get(command, {}).items():
        if path := getattr(given, name):
            if endings and not path.lower().endswith(endings):
                raise UsageError(f"--{dashed(name)}={path}: give a name that ends in {' or '.join(endings)}")
            files.check_writable(path, f"--{dashed(name)}", folder=name.endswith("_folder"))


def _from_checkpoint(
    command: str, flags: Mapping[str, Any], named: Any, checkpoint: dict[str, Any], path: Path
) -> Config:
    metadata = checkpoint["metadata"]
    saved = dict(metadata["config"]) | {"model": metadata["model"]}
    for name in OF_CHECKPOINT:
        if name in flags and not (name == "dataset" and registry.is_external(saved.get("dataset"))):
            raise UsageError(f"--{dashed(name)} has no effect: {path} says {name} {saved.get(name)}")
    if command not in ("val", "export"):
        saved |= {"dataset": None, "on_bad_image": Config.default_of("on_bad_image")}
    texts = checkpoint.get("texts")
    if texts and texts["input"] == "latents":
        raise UsageError(f"{path} holds a generator: run generate.py beside it, or give {command} the run")
    code = ("dataset",) if texts else ("model", "dataset")  # a file with a net needs no code for it
    check_named(saved, named, code, f"{path} was trained with")
    if texts and registry.is_external(saved["model"]):
        saved["model"] = Config.default_of("model")
    if "model" in flags and not registry.same(resolve(command, {"model": flags["model"]}).model, metadata["model"]):
        raise UsageError(f"{path} holds {metadata['model']}, not {flags['model']}: leave out --model")
    for name in set(CODE) - {"model", "dataset"}:  # code of the user's that is of no use here
        saved[name] = Config.default_of(name)
    saved = for_this_machine(saved) | {"num_workers": None}
    opt = resolve(command, {**flags, "load_path": str(path)}, saved)
    return opt.model_copy(update={"model": metadata["model"]}) if texts else opt


def _from_weights(
    command: str, flags: Mapping[str, Any], checkpoint: dict[str, Any], path: Path
) -> tuple[Config, dict[str, Any]]:
    """For weights without options: the flags say whose they are, and the data set's defaults the rest."""
    from data.transforms import Preprocess  # imports torch

    opt = resolve(command, {**flags, "load_path": str(path)})
    name = opt.dataset or models.constants(opt.model).get("dataset", "DogCat")
    facts: Any = data.entries()[name].constants if name in data.entries() else {}
    classes: list[str] | None = None
    if command == "val":
        dataset = data.open(name, opt.train_data_root)
        classes = dataset.classes
        facts = {key: getattr(dataset, key) for key in ("mean", "std", "image_size", "channels")}
    own = models.preprocessing(opt.model)
    size = opt.image_size or own.get("image_size") or facts.get("image_size", ImageData.image_size)
    values = {key: facts.get(key, getattr(ImageData, key)) for key in ("mean", "std")} | own
    preprocess = Preprocess(**values | {"image_size": size})
    count = checkpoint["metadata"].get("num_classes") or len(classes or ())
    count = count or models.count_classes(opt.model, checkpoint["net"], size, len(preprocess.mean), opt.model_arguments)
    names = classes or list(facts.get("class_names", ()))
    classes = names if len(names) == count else [str(number) for number in range(count)]
    shown = ", ".join(classes[:SHOWN]) + (", ..." if count > SHOWN else "")
    print(f"{path} holds weights only: taken as {opt.model} with {count} classes ({shown}), images of {size} x {size}")
    metadata = {
        "model": opt.model,
        "model_args": opt.model_arguments,
        "num_classes": count,
        "classes": classes,
        "images": {},
        "preprocess": preprocess.state_dict(),
    }
    return opt.model_copy(update={"dataset": name}), checkpoint | {"metadata": metadata}
