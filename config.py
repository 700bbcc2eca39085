"""Every option, once: name, group, default, help, the commands it works on, type, range or choices.

    opt = Config(lr=0.1)                                                  # in a notebook
    opt = Config.resolve("train", {"config": "demo", "lr": "1e-3"})       # what a command line becomes

Defaults < saved run < preset (--config) < flags. Flags and YAML values are text and go the same way in.
Run as a script, this file prints the JSON schema with which editors complete configs/*.yaml.
"""

import json
import os
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

import data
import models
from cli import presets
from utils.errors import UsageError, nearest

if TYPE_CHECKING:
    from data.image_data import ImageData

PathText = Annotated[
    str,
    BeforeValidator(lambda v: os.fspath(v) if isinstance(v, os.PathLike) else v),
    AfterValidator(os.path.expanduser),
]
LEARN = ("train", "bench", "check")  # commands
JUDGE = ("val", "test")
USE = (*JUDGE, "generate")
TASKS = {"classify": "classifiers", "gan": "GANs"}  # groups of options that others do not read
NONE = ("none", "null", "~", "")  # what clears an option that may be empty


def option(group: str, default: Any, help: str, commands: tuple[str, ...] = LEARN, **limits: float) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group, "commands": commands}, **limits)


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    # fmt: off
    model: str = option("experiment", "ResNet34", "the net, by name (val, test, generate: must be the checkpoint's)", LEARN + USE)
    load_path: PathText | None = option("experiment", None, "checkpoint file or run folder (last: the newest run); for train: weights to start from", ("train", *USE))
    pretrained: bool = option("experiment", False, "start from torchvision's weights (its cache, or the file --load-path)", ("train",))
    resume: PathText | None = option("experiment", None, "run folder to go on with (last: the newest run); its options stay, flags win", ("train",))
    seed: int = option("experiment", 0, "fixes the split, the order, the augmentation and the first weights; for generate: the noise", (*LEARN, "generate"), ge=0, lt=2**31)
    checkpoint_dir: PathText = option("experiment", "checkpoints", "where run folders are made, and where load_path=last and resume=last look", ("train", "check", *USE))

    dataset: str = option("data", "DogCat", "the data set, by name")
    train_data_root: PathText | None = option("data", None, "folder of images to learn from; None: data/train, Demo data/demo/train, sets of torchvision data", (*LEARN, "val"))
    test_data_root: PathText = option("data", "data/test1", "images to label: a folder or one file", ("test",))
    val_fraction: float | None = option("data", None, "part of each class that is kept for validation; None: the data set's own part, else 0.3", LEARN, gt=0, lt=1)
    image_size: int | None = option("data", None, "side of the square that the net sees, in pixels; None: the data set's own, 224 for files", LEARN, ge=8, le=4096)
    batch_size: int = option("data", 32, "images that one optimizer step sees", LEARN + JUDGE, ge=1)
    cache: Literal["auto", "disk", "off"] = option("data", "auto", "auto: hold small sets in memory; disk: keep all images decoded in data/cache", (*LEARN, "val"))
    on_bad_image: Literal["fail", "skip"] = option("data", "fail", "an image that cannot be read; skip: another one of its class takes its place", (*LEARN, "val"))
    data_timeout: float = option("data", 300, "seconds that the worker processes may take for a batch", LEARN + JUDGE, gt=0)

    min_crop: float | None = option("augmentation", None, "smallest part of an image's area that a training crop takes; None: 0.25, sets of small images 1", LEARN, gt=0, le=1)
    flip: bool | None = option("augmentation", None, "mirror each image in every other epoch; None: not for digits and letters", LEARN)
    shift: int = option("augmentation", 0, "move by up to so many pixels", LEARN, ge=0)
    cutout: int = option("augmentation", 0, "cover a square of so many pixels", LEARN, ge=0)

    max_epoch: int = option("training", 10, "epochs", ("train",), ge=1)
    ema: float = option("training", 0, "decay of the weights' moving average, which is eval_model and saved in their place; 0: none", LEARN, ge=0, lt=1)
    on_nan: Literal["stop", "skip"] = option("training", "stop", "a step whose loss or gradients are not finite; skip: leave it out", LEARN)

    optimizer: Literal["Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD", "Muon"] = option("classify", "Adam", "update rule of torch.optim (Muon: for the filters and matrices, AdamW for the rest)")
    momentum: float = option("classify", 0.9, "of SGD and Muon", LEARN, ge=0, lt=1)
    nesterov: bool = option("classify", True, "of SGD and Muon", LEARN)
    lr: float = option("classify", 1e-3, "learning rate at the start (onecycle: at the peak)", LEARN, gt=0)
    scheduler: Literal["plateau", "cosine", "linear", "onecycle", "constant"] = option("classify", "plateau", "how the learning rate falls", ("train",))
    warmup: float = option("classify", 0, "part of the training in which the learning rate rises from a 25th of it (onecycle has its own)", ("train",), ge=0, lt=1)
    lr_decay: float = option("classify", 0.5, "plateau: factor on lr when the validation loss rises", ("train",), gt=0, lt=1)
    weight_decay: float = option("classify", 1e-4, "weight decay (Adam, SGD: an L2 term in the gradient)", LEARN, ge=0)
    label_smoothing: float = option("classify", 0, "part of each label that is spread over all classes", LEARN, ge=0, lt=1)
    mixup: float = option("classify", 0, "blend pairs of images, by parts drawn from Beta(mixup, mixup)", LEARN, ge=0)
    cutmix: float = option("classify", 0, "paste a box of one image into another, of a part drawn from Beta(cutmix, cutmix)", LEARN, ge=0)
    balance: Literal["none", "sampler", "loss"] = option("classify", "none", "unequal classes; sampler: draw all as often, loss: weigh the rare ones more")
    clip_grad: float | None = option("classify", None, "largest L2 norm of all gradients together", LEARN, gt=0)
    progressive_resizing: float = option("classify", 0, "part of the training in which images are three quarters as wide: twice as fast", ("train",), ge=0, le=1)
    accumulate: int = option("classify", 1, "parts in which a batch goes through the net, to save memory", LEARN, ge=1)
    flip_test: bool = option("classify", False, "judge the mean of an image and its mirror image", LEARN + JUDGE)

    nz: int | None = option("gan", None, "length of the noise that an image is made from; None: the model's own, 100", LEARN, ge=1)
    ngf: int | None = option("gan", None, "channels of the generator at 32 pixels; None: the model's own, 64", LEARN, ge=1)
    ndf: int | None = option("gan", None, "channels of the discriminator at 32 pixels; None: the model's own, 64", LEARN, ge=1)
    lr1: float = option("gan", 2e-4, "learning rate of the generator", LEARN, gt=0)
    lr2: float = option("gan", 2e-4, "learning rate of the discriminator", LEARN, gt=0)
    beta1: float = option("gan", 0.5, "Adam's momentum of both", LEARN, ge=0, lt=1)
    d_every: int = option("gan", 1, "steps between two of the discriminator", LEARN, ge=1)
    g_every: int = option("gan", 1, "steps between two of the generator (book: 5)", LEARN, ge=1)
    d_shift: int = option("gan", 0, "move all that the discriminator sees, real or not, by up to so many pixels: for few images", LEARN, ge=0)
    judge: PathText | None = option("gan", None, "run of a classifier whose features generated images are judged by; None: a fixed random net's", ("train", "val"))

    gen_num: int = option("generate", 64, "images that generate keeps", ("generate",), ge=1)
    gen_search_num: int = option("generate", 512, "images it makes, of which it keeps those that the discriminator likes best", ("generate",), ge=1)
    gen_mean: float = option("generate", 0, "mean of the noise", ("generate",))
    gen_std: float = option("generate", 1, "deviation of the noise; less: more alike", ("generate",), ge=0)
    gen_img: PathText = option("generate", "result.png", "the grid that generate writes", ("generate",))
    gen_folder: PathText | None = option("generate", None, "folder for each image as a file of its own", ("generate",))
    gen_walk: PathText | None = option("generate", None, "a walk between two noises as a GIF, or as a strip (PNG)", ("generate",))

    use_gpu: bool | None = option("machine", None, "train on the GPU; None: where there is one", LEARN + USE)
    amp: Literal["auto", "bf16", "off"] = option("machine", "auto", "bfloat16 autocast; auto: where the hardware has it", LEARN + USE)
    channels_last: bool = option("machine", True, "memory format of images and convolutions", LEARN + USE)
    num_workers: int | None = option("machine", None, "processes that read images; None: fits the machine, 0: none", LEARN + JUDGE, ge=0)

    print_freq: int = option("output", 20, "steps between two updates of the record, the terminal and visdom (one a second at least)", ("train",), ge=1)
    save_every: int = option("output", 1000, "steps between two checkpoints within an epoch; each epoch ends with one", ("train",), ge=1)
    keep: int = option("output", 2, "checkpoints kept while training, beside the best", ("train", "check"), ge=1)
    env: str = option("output", "default", "visdom environment", ("train",))
    vis_port: int | None = option("output", 8097, "port of the visdom server; None: no visdom", ("train",), ge=1, le=65535)
    debug_file: PathText | None = option("output", "/tmp/debug", "while this file exists, a debugger opens at each print_freq step (on a terminal)", ("train",))
    result_file: PathText = option("output", "result.csv", "the CSV that test writes", ("test",))
    # fmt: on

    @model_validator(mode="before")
    @classmethod
    def _none_from_text(cls, values: Any) -> Any:
        """The text None clears the options that may be empty."""
        if not isinstance(values, dict):
            return values
        empty = {k for k, f in cls.model_fields.items() if type(None) in get_args(f.annotation)}
        return {k: None if k in empty and str(v).strip().lower() in NONE else v for k, v in values.items()}

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        return models.find(name)

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        return data.find(name)

    def with_dataset_defaults(self, dataset: "ImageData") -> "Config":
        """With what None leaves to the data set filled in."""
        own = {name: getattr(dataset, name) for name in ("image_size", "min_crop", "flip")}
        return self.model_copy(update={name: value for name, value in own.items() if getattr(self, name) is None})

    @classmethod
    def resolve(cls, command: str, flags: Mapping[str, Any], saved: Mapping[str, Any] | None = None) -> "Config":
        """The options of one command: defaults < `saved` (a checkpoint's config) < preset < flags.

        Raises:
            UsageError: an unknown option, one that `command` does not read, or a value out of place; one line.
        """
        flags = dict(flags)
        config = flags.pop("config", None)
        preset = {} if config is None else presets.read(config)
        for name in flags:
            _check_flag(name, command)
        for name, (_, place) in preset.items():
            if name not in cls.model_fields:
                raise UsageError(f"{place}: unknown option {name!r}.{nearest(name, cls.model_fields)}")
        places = {name: place for name, (_, place) in preset.items()} | {name: "--" + dashed(name) for name in flags}
        # A preset describes a whole experiment; the parts that this command does not read leave the saved run alone.
        given = {k: text for k, (text, _) in preset.items() if saved is None or command in commands_of(k)} | flags
        try:
            opt = cls(**{k: v for k, v in (saved or {}).items() if k in cls.model_fields} | given)
        except ValidationError as e:
            error = e.errors()[0]
            name, value = str(error["loc"][0]), error["input"]
            raise UsageError(_wrong_value(name, value, places.get(name, "the checkpoint's config"))) from None
        if saved is not None or command in LEARN and not opt.resume:  # else the model is not known yet
            _check_task(opt, {name: places[name] for name in given})
        return opt


def dashed(name: str) -> str:
    return name.replace("_", "-")


def commands_of(name: str) -> tuple[str, ...]:
    """The commands that read the option `name`."""
    return Config.model_fields[name].json_schema_extra["commands"]


def type_of(name: str) -> str:
    """The option's type and range in words: `int >= 1`, `adam | sgd`, `path or None`."""
    field = Config.model_fields[name]
    args = get_args(field.annotation)
    if get_origin(field.annotation) in (Union, types.UnionType):
        kind, empty = _type_name(args[0]), " or None"
    else:
        empty = ""
        kind = _type_name(field.annotation)
        kind = "path" if kind == "text" and any(isinstance(m, AfterValidator) for m in field.metadata) else kind
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [f"{signs[k]} {getattr(m, k)}" for m in field.metadata for k in signs if hasattr(m, k)]
    return f"{kind} {', '.join(limits)}".strip() + empty


def is_switch(name: str) -> bool:
    """Whether the option is true or false, so that it may be typed as --name and --no-name."""
    annotation = Config.model_fields[name].annotation
    return bool in (annotation, *get_args(annotation))


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(get_args(kind))
    if get_origin(kind) is Annotated:
        return "path"
    return {str: "text", bool: "true | false", float: "number", type(None): "None"}.get(kind) or kind.__name__


def _check_flag(name: str, command: str) -> None:
    if name not in Config.model_fields:
        hint = nearest(name, [*Config.model_fields, "config"])
        raise UsageError(f"unknown option --{dashed(name)}.{hint} `help` lists all options")
    if command not in commands_of(name):
        raise UsageError(
            f"--{dashed(name)} has no effect on {command}: it is an option of {', '.join(commands_of(name))}"
        )


def _check_task(opt: Config, places: Mapping[str, str]) -> None:
    """Refuses options, given in `places`, of other tasks than the model's: those of a group of the task's name."""
    task = models.task_of(opt.model).lower()
    for name, place in places.items():
        group = Config.model_fields[name].json_schema_extra["group"]
        flag = place.startswith("--")  # a run's config.yaml holds every option: there the defaults of others may stand
        if group in TASKS and group != task and (flag or getattr(opt, name) != Config.model_fields[name].default):
            what = place if flag else f"{place}: {name}"
            raise UsageError(
                f"{what} has no effect on {opt.model}: it is an option of {TASKS[group]} (`help` lists them)"
            )


def _wrong_value(name: str, value: Any, place: str) -> str:
    field = Config.model_fields[name]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    place = place if place.startswith("--") else f"{place}: {name}"
    return f"{place} takes {type_of(name)}, not {value!r}.{nearest(str(value), choices)}"


if __name__ == "__main__":
    schema = Config.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "a preset whose options this one starts from"}
    print(json.dumps(schema, indent=2))
