"""Every option, once: type, default, the commands that read it, its range, and under it what it means.

    opt = Config(lr=0.1)             # in a notebook
    opt.parse({"lr": 0.1})           # as in the book, 6.1.7
    python main.py train --lr=0.1    # cli/resolve.py: defaults < saved run < preset (--config) < flags

Flags and YAML values arrive as text and are converted here. Run as a script, this file prints the JSON
schema with which editors complete configs/*.yaml.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import field_validator

import data
import models
from utils import registry, torch_optim
from utils.options import Arguments, Names, Options, PathText, by_name, make_option

if TYPE_CHECKING:
    from data.image_data import ImageData

LEARN = ("train", "bench", "check")  # commands
JUDGE = ("val", "test", "predict", "export", "features", "explain", "report")
USE = (*JUDGE, "generate")
OF_FILE = ("val", "test", "predict", "export")  # take a checkpoint or an exported file
SUM = ("summary",)
RUNS = ("runs", "report", "replay")  # take run folders
SWEEP = ("sweep",)
# options that may name code of the user's
CODE = ("model", "dataset", "optimizer", "scheduler", "metrics", "sinks")
warnings.filterwarnings("ignore", message='Field name "json"')  # as the flag is called
option = make_option(LEARN)  # option(default, commands=LEARN, **limits)


def find_scheduler(name: str) -> str:
    """The function of engine/schedules.py that the user means, or one of the user's own."""
    if registry.is_external(name):
        registry.external(name, "scheduler")
        return name
    path = Path(__file__).parent / "engine" / "schedules.py"
    return registry.find(name, registry.functions(path, "engine.schedules"), "scheduler")


def check_address(address: str) -> str:
    """The address of a server, as https://host/base; the port and the login come from elsewhere."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected http://host, https://host or https://host/base")
    if parts.username is not None:
        raise ValueError("the login comes from the environment: VISDOM_USERNAME, VISDOM_PASSWORD")
    if parts.netloc.rpartition("]")[2].count(":"):
        raise ValueError("the port is --vis-port")
    return parts.geturl().rstrip("/")


def check_name(name: str | None) -> str | None:
    """The name of a folder, which is no path."""
    if name is not None and (not name or name[0] == "." or "/" in name or "\\" in name or not name.isprintable()):
        raise ValueError("expected a name of letters, digits, - and _")
    return name


Model = Annotated[str, by_name(models.find)]
Dataset = Annotated[str, by_name(data.find)]
Optimizer = Annotated[str, by_name(torch_optim.find)]
Scheduler = Annotated[str, by_name(find_scheduler)]


class Experiment(Options):
    model: Model = option("ResNet34", LEARN + USE + SUM)
    """the net: a name, timm/NAME, or a class of yours, path/to/file.py:Class"""

    model_args: Arguments = option({}, LEARN + JUDGE + SUM)
    """arguments of the net's class, as "width=2 depth=3"; in YAML a mapping"""

    load_path: PathText | None = option(None, ("train", *OF_FILE, "generate", "features", "explain", "summary"))
    """checkpoint, run folder (last: the newest) or exported file; A,B: their mean; for train: weights to start from"""

    pretrained: bool = option(False, ("train",))
    """start from published weights (torchvision's or timm's cache, or the file --load-path)"""

    resume: PathText | None = option(None, ("train", "sweep"))
    """run folder to resume (last: the newest run); its options are kept, flags override them; for sweep: its name"""

    name: str | None = option(None, ("train", "sweep"), exclude=True)
    """name of the run folder; None: MODEL_DATASET_MMDD_HHMMSS; for sweep: of its folder"""

    _check_name = field_validator("name")(check_name)

    seed: int = option(0, (*LEARN, "generate"), ge=0, lt=2**31)
    """fixes the split, the order, the augmentation and the first weights; for generate: the latents"""

    checkpoint_dir: PathText = option("checkpoints", ("train", "check", "runs", "replay", "summary", "sweep", *USE))
    """where run folders are made, and where load_path=last and resume=last look"""


class Data(Options):
    dataset: Dataset | None = option(None, LEARN + JUDGE + SUM)
    """the data set: a name, or a class of yours, path/to/file.py:Class; None: the model's own, else DogCat"""

    train_data_root: PathText | None = option(None, (*LEARN, "val", "export", "report", "summary"))
    """folder of images to learn from; None: data/train, Demo data/demo/train, sets of torchvision data"""

    test_data_root: PathText = option("data/test1", ("test",))
    """images to label: a folder or one file"""

    split: Literal["val", "train", "test", "all"] = option("val", ("val",))
    """the images that val evaluates on: those kept for validation, those for training, the set's own test part, all"""

    val_fraction: float | None = option(None, gt=0, lt=1)
    """part of each class that is kept for validation; None: the data set's own part, else 0.3"""

    image_size: int | None = option(None, LEARN + JUDGE + SUM, ge=8, le=4096)
    """side of the square that the net sees, in pixels; None: the data set's own, 224 for files"""

    batch_size: int = option(32, LEARN + JUDGE + SUM, ge=1)
    """images that one optimizer step sees"""

    cache: Literal["auto", "disk", "off"] = option("auto", (*LEARN, "val", "report"))
    """auto: hold small sets in memory; disk: keep all images decoded in data/cache"""

    on_bad_image: Literal["fail", "skip", "fill"] = option("fail", (*LEARN, "val", "test", "features", "report"))
    """an image that cannot be read; skip: another of its class (test, features: no row); fill (test): equal odds"""

    data_timeout: float = option(300, LEARN + JUDGE, gt=0)
    """seconds that the worker processes may take for a batch"""


class Augmentation(Options):
    min_crop: float | None = option(None, gt=0, le=1)
    """smallest part of an image's area that a training crop takes; None: 0.25, sets of small images 1"""

    flip: bool | None = option(None)
    """mirror each image in every other epoch; None: not for digits and letters"""

    shift: int = option(0, ge=0)
    """move by up to this many pixels"""

    rotate: float = option(0, ge=0, le=180)
    """turn by up to this many degrees either way"""

    cutout: int = option(0, ge=0)
    """cover a square of this many pixels a side"""

    noise: float = option(0, ge=0, le=1)
    """standard deviation of Gaussian noise, as part of the range of a pixel"""


class Training(Options):
    max_epoch: int = option(10, ("train",), ge=1)
    """epochs"""

    ema: float = option(0, LEARN + SUM, ge=0, lt=1)
    """decay of the moving average of the weights, which is evaluated and saved in their place; 0: none"""

    freeze: str | None = option(None, LEARN + SUM)
    """regular expression: weights whose names match it do not learn"""

    monitor: str | None = option(None, ("train",))
    """the validation metric that the best epoch is chosen by; None: the task's own (accuracy)"""

    metrics: Names = option([], ("train", "val"))
    """further metrics: functions of yours of (logits, labels), path/to/file.py:function"""

    on_nan: Literal["stop", "skip"] = option("stop")
    """a step whose loss or gradients are not finite; skip: leave it out"""


class Optimization(Options):
    optimizer: Optimizer = option("Adam", LEARN + SUM)
    """a class of torch.optim (Muon: AdamW for all but filters and matrices), or path/to/file.py:Class"""

    lr: float = option(1e-3, gt=0)
    """learning rate at the start (onecycle: at the peak)"""

    momentum: float | None = option(None, LEARN + SUM, ge=0, lt=1)
    """momentum of the optimizers that have one; None: 0.9 for SGD and Muon, else the optimizer's own"""

    nesterov: bool | None = option(None)
    """Nesterov momentum, of SGD and Muon; None: yes"""

    backbone_lr: float = option(1, ge=0, le=1)
    """learning rate of all but the head, as a part of lr; 0: only the head learns"""

    hyperball: bool = option(False, LEARN + SUM)
    """Muon: a step turns a matrix by lr of its norm, which stays; the rest has 0.3 of lr (Hyperball)"""

    weight_decay: float = option(1e-4, ge=0)
    """weight decay (Adam, SGD: an L2 term in the gradient)"""

    scheduler: Scheduler = option("plateau", ("train",))
    """how the learning rate falls: a function of engine/schedules.py, or path/to/file.py:function"""

    warmup: float = option(0, ("train",), ge=0, lt=1)
    """part of the training in which the learning rate rises from a 25th of it (onecycle has its own)"""

    lr_decay: float = option(0.5, ("train",), gt=0, lt=1)
    """plateau: factor on lr when the validation loss rises"""

    clip_grad: float | None = option(None, gt=0)
    """largest L2 norm of all gradients together"""


class Classification(Options):
    label_smoothing: float = option(0, ge=0, lt=1)
    """part of each label that is spread over all classes"""

    mixup: float = option(0, ge=0)
    """blend pairs of images, by weights drawn from Beta(mixup, mixup)"""

    cutmix: float = option(0, ge=0)
    """paste a box of one image into another, of an area drawn from Beta(cutmix, cutmix)"""

    linear_probe: bool = option(False, LEARN)
    """fit the head to the features of all images before the first step (LP-FT), for pretrained nets"""

    balance: Literal["none", "sampler", "loss"] = option("none")
    """unequal classes; sampler: draw all equally often, loss: weigh the rare ones more"""

    progressive_resizing: float = option(0, ge=0, le=1)
    """part of the training in which images are three quarters as wide: twice as fast"""

    accumulate: int = option(1, LEARN + SUM, ge=1)
    """micro-batches in which a batch goes through the net, to save memory"""

    flip_test: bool = option(False, (*LEARN, "val", "test", "predict", "report"))
    """predict the mean of an image and its mirror image"""

    shift_test: int = option(0, (*LEARN, "val", "test", "predict", "report"), ge=0)
    """predict the mean of an image and of it moved so many pixels both ways; in train after the last epoch"""


class Gan(Options):
    nz: int | None = option(None, LEARN + SUM, model_argument=True, ge=1)
    """length of the latent vector that an image is made from; None: the model's own, 100"""

    ngf: int | None = option(None, LEARN + SUM, model_argument=True, ge=1)
    """channels of the generator at 32 pixels; None: the model's own, 64"""

    ndf: int | None = option(None, LEARN + SUM, model_argument=True, ge=1)
    """channels of the discriminator at 32 pixels; None: the model's own, 64"""

    conditional: bool | None = option(None, LEARN + SUM, model_argument=True)
    """tell both nets the class of an image, so that generate --class=CAT can ask for one; None: no"""

    lr1: float = option(2e-4, gt=0)
    """learning rate of the generator"""

    lr2: float = option(2e-4, gt=0)
    """learning rate of the discriminator"""

    beta1: float = option(0.5, ge=0, lt=1)
    """Adam's beta1 of both"""

    d_every: int = option(1, ge=1)
    """the discriminator steps in every d_every-th step"""

    g_every: int = option(1, ge=1)
    """the generator steps in every g_every-th step (book: 5)"""

    d_shift: int = option(0, ge=0)
    """move all that the discriminator sees, real or not, by up to this many pixels: for few images"""

    r1: float = option(0, ge=0)
    """weight of the penalty on the discriminator's gradient at real images, which keeps it from being too sure"""

    judge: PathText | None = option(None, ("train", "val"))
    """run of a classifier by whose features generated images are compared; None: a fixed random net's"""


class Generate(Options):
    gen_num: int = option(64, ("generate",), ge=1)
    """images that generate keeps"""

    gen_search_num: int = option(512, ("generate",), ge=1)
    """images that it makes, of which it keeps those with the highest score of the discriminator"""

    class_: str | None = option(None, ("generate",))
    """the class of the images, of a GAN that was trained with --conditional; None: all classes"""

    gen_mean: float = option(0, ("generate",))
    """mean of the latents"""

    gen_std: float = option(1, ("generate",), ge=0)
    """standard deviation of the latents; less: more alike"""

    gen_img: PathText = option("result.png", ("generate",))
    """the grid that generate writes"""

    gen_folder: PathText | None = option(None, ("generate",))
    """folder for each image as a file of its own"""

    gen_walk: PathText | None = option(None, ("generate",))
    """an interpolation between two latents as a GIF, or as a strip (PNG)"""


class Machine(Options):
    use_gpu: bool | None = option(None, LEARN + USE + SUM)
    """train on the GPU; None: where there is one"""

    amp: Literal["auto", "bf16", "fp16", "off"] = option("auto", (*LEARN, *SUM, *OF_FILE, "generate", "report"))
    """autocast to 16 bits; auto: bf16 where the hardware has it, else fp16 on a GPU that has that"""

    channels_last: bool = option(True, LEARN + USE)
    """memory format of images and convolutions"""

    num_workers: int | None = option(None, LEARN + JUDGE, ge=0)
    """processes that read images; None: fits the machine, 0: none"""

    threads: int | None = option(None, LEARN + USE, ge=1)
    """threads that compute on the CPU; None: one for each core"""

    # not part of the experiment: the numbers are the same with any number of processes
    processes: int = option(1, ("train",), exclude=True, ge=1)
    """processes of this machine that train together, one for each GPU; torchrun and srun start them on several"""


class Output(Options):
    print_freq: int = option(20, ("train",), ge=1)
    """steps between two updates of the record, the terminal and visdom (one a second at least)"""

    save_every: int = option(1000, ("train",), ge=1)
    """steps between two checkpoints within an epoch; each epoch ends with one"""

    keep: int = option(2, ("train", "check"), ge=1)
    """checkpoints kept while training, beside the best"""

    env: str | None = option(None, ("train", "runs", "replay"))
    """visdom environment: a page, which several runs may share; None: one of the run's own"""

    vis_port: int | None = option(8097, ("train", "runs", "replay"), ge=1, le=65535)
    """port of the visdom server; None: no visdom"""

    vis_server: str = option("http://localhost", ("train", "runs", "replay"))
    """address of the visdom server, as https://host/base; login: VISDOM_USERNAME, VISDOM_PASSWORD (environment)"""

    _check_address = field_validator("vis_server")(check_address)

    tensorboard: bool = option(False, ("train",))
    """write the run for TensorBoard too, into its folder's tensorboard/; needs the package tensorboard"""

    sinks: Names = option([], ("train",))
    """further views of the record: subclasses of Sink of yours, path/to/file.py:Class"""

    debug_file: PathText | None = option("/tmp/debug", ("train",))
    """while this file exists, a debugger opens at each print_freq step (on a terminal)"""

    result_file: PathText = option("result.csv", ("test",))
    """the CSV that test writes"""

    logits: bool = option(False, ("test",))
    """add a column to the CSV for the logit of each class, as for averaging several nets"""


class Runs(Options):
    where: str = option("", ("runs",))
    """only runs of which this holds, as "model=ResNet34 lr<0.01": options, metrics of the best epoch, columns"""

    sort: str = option("", ("runs",))
    """the column, metric or option to sort by; -NAME: the largest first; else the newest first"""

    csv: bool = option(False, ("runs",))
    """print the table as CSV"""

    json: bool = option(False, ("runs", "predict", "bench"))  # type: ignore[assignment]  # not pydantic's old method
    """print JSON; predict: an object a line; bench: one, with the lines on stderr"""

    curves_file: PathText | None = option("curves.png", ("runs",))
    """the picture of the curves that `runs A B` writes; None: none"""

    report_file: PathText | None = option(None, ("report",))
    """the page that report writes; None: report.html, of one run in its folder"""

    gallery: bool = option(True, ("report",))
    """evaluate the best epoch again, for what shows single images: mistakes, wrong labels, heat maps, ROC"""

    to: str = option("visdom", ("replay",))
    """the view that a run is drawn in again: visdom, tensorboard, or a sink of yours, path/to/file.py:Class"""


class Sweep(Options):
    trials: int = option(20, SWEEP, ge=1)
    """how many trials there are in the end, by all workers together"""

    sampler: Literal["tpe", "random", "grid"] = option("tpe", SWEEP)
    """how points are chosen; tpe: more where trials were good; grid: all combinations of choices, in order"""

    pruner: Literal["median", "hyperband", "none"] = option("median", SWEEP)
    """which trials end early; median: those below the median of the others at the same epoch"""

    seeds: int = option(1, SWEEP, ge=1)
    """runs of each trial, with seed, seed + 1, ...; their mean counts"""

    hours: float | None = option(None, SWEEP, gt=0)
    """begin no trial that would not end within so many hours"""

    storage: str | None = option(None, SWEEP)
    """URL of a database into which ended trials are copied, as Optuna's own tools read it: postgresql://..."""

    parallel: int = option(1, SWEEP, ge=1)
    """trials that train at a time on this machine, which share its cores and GPUs"""


class Predict(Options):
    top_k: int = option(1, ("predict",), ge=1)
    """how many classes a line has, the likeliest first"""

    sort_into: PathText | None = option(None, ("predict",))
    """new folder with one for each class, and in it links to the images that are labelled so"""

    unsure_below: float | None = option(None, ("predict",), gt=0, le=1)
    """sort_into: images whose probability is less come into its folder unsure/"""

    copies: bool = option(False, ("predict",))
    """sort_into: copies in place of links"""

    watch_folder: bool = option(False, ("predict",))
    """go on with images that arrive in the folders later, until Ctrl-C"""

    least_sure: PathText | None = option(None, ("predict",))
    """a page (.html) with the images of the lowest probabilities"""


class Export(Options):
    format: Literal["onnx", "torch", "safetensors"] = option("onnx", ("export",))
    """onnx: for ONNX Runtime and others; torch: of torch.export (.pt2); safetensors: the bare weights"""

    export_folder: PathText | None = option(None, ("export",))
    """folder for the file and what belongs to it; None: export/ in the run folder"""

    pixels: bool = option(False, ("export",))
    """the file takes uint8 pixels and gives probabilities (a GAN's: pixels): mean and std cannot be got wrong"""

    quantize: bool = option(False, ("export",))
    """a second file in 8-bit integers (onnx), and the accuracy that it costs"""

    parity: bool = option(True, ("export",))
    """compare the file with the net, on images of the validation part, and write it only where they agree"""


class Diagnosis(Options):
    watch: bool = option(False, ("train",))
    """look into each layer at every print_freq-th step: spread of outputs and gradients, updates, dead units"""

    overfit: bool = option(False, ("check",))
    """learn one batch by heart, and say why where the net cannot"""

    lr_find: PathText | None = option(None, ("check",))
    """raise the learning rate from step to step, suggest one, and draw the losses into this PNG"""

    layer: str | None = option(None, ("features", "explain"))
    """the layer whose output is taken, as layer3; None: what the head gets (explain: the last that gives maps)"""

    features_file: PathText = option("features.npy", ("features",))
    """what features writes: an array (.npy) with a .csv that says which image each row is; or all in one .csv"""

    heatmap_folder: PathText = option("heatmaps", ("explain",))
    """the folder that explain writes a picture for each image into"""

    # not part of the experiment: config.yaml and checkpoints leave them out
    dry_run: bool = option(False, ("train",), exclude=True)
    """a few steps in a folder that is removed again: what the run would take in time, memory and disk"""

    profile: bool = option(False, ("train",), exclude=True)
    """measure where the time of a few steps goes: a table and a trace in the run folder"""


GROUPS = (
    *(Experiment, Data, Augmentation, Training),
    *(Optimization, Classification, Gan, Generate),
    *(Machine, Output, Runs, Sweep, Predict, Export, Diagnosis),
)


class Config(*reversed(GROUPS)):  # type: ignore[misc]  # pydantic collects fields from the last base on
    """All options, flat.

    Raises:
        UsageError: an unknown name, or a value out of place; in one line, also where one is assigned.
    """

    def with_dataset_defaults(self, dataset: "ImageData") -> "Config":
        """A copy with what None leaves to the model or the data set filled in."""
        own = {name: getattr(dataset, name) for name in ("image_size", "min_crop", "flip")}
        own["image_size"] = models.preprocessing(self.model).get("image_size") or own["image_size"]
        missing = {name: value for name, value in own.items() if getattr(self, name) is None}
        return self.model_copy(update=missing)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """`model_args`, and the options that are arguments of the model's class under their own names."""
        own = {name: getattr(self, name) for name in self.fields() if self.extra(name).get("model_argument")}
        return self.model_args | {name: value for name, value in own.items() if value is not None}


def __getattr__(name: str) -> Any:
    """The book's names: `from config import DefaultConfig`, `from config import opt`."""
    if name == "DefaultConfig":
        return Config
    if name == "opt":
        return globals().setdefault("opt", Config())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    schema = Config.model_json_schema()
    base = {"type": "string", "description": "a preset whose options this one starts from"}
    schema["properties"]["base"] = base
    print(json.dumps(schema, indent=2))
