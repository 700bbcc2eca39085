"""The report of `summary`: the layers of a net, and what one image and one training step cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

import data
import models
from analysis import step_memory
from analysis.layer_tree import Layer, layers
from analysis.step_memory import StepMemory
from config import Config
from data.torchvision_table import COUNTS
from engine.device import NUMBERS, Device, select_device
from engine.optimizers import freeze, make_optimizer
from engine.tasks.gan import bce, latent_size
from models.building import on_meta
from utils.errors import UsageError
from utils.text import counted, padded, printable, shortened

ROWS = 40  # of the table, at most: then the layers inside of layers are left out
UNITS = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}


@dataclass
class Facts:
    """What a net is built for."""

    num_classes: int
    size: int
    channels: int


def facts_of_dataset(opt: Config) -> Facts:
    """From the data set's name alone, where that tells; else from its folder, whose images are not read.

    Raises:
        UsageError: the classes are known from the folder alone, and none is given.
    """
    name = opt.dataset or ""
    count = COUNTS.get(name) or len(data.entries()[name].constants.get("class_names", ())) if ":" not in name else 0
    count = 1 if name == "Unlabelled" else count
    if count and not opt.typed("train_data_root"):
        facts: Any = getattr(data, name)
    elif opt.train_data_root or ":" in name:
        facts = data.open(name, opt.train_data_root)
        count = len(facts.classes)
    else:
        raise UsageError(f"how many classes {name} has its folder tells: give it as --train-data-root=DIR")
    size = opt.image_size or models.preprocessing(opt.model).get("image_size") or facts.image_size
    return Facts(count, size, facts.channels)


def facts_of_checkpoint(metadata: dict[str, Any]) -> Facts:
    preprocess = metadata["preprocess"]
    return Facts(metadata["num_classes"], preprocess["image_size"], len(preprocess["mean"]))


class Subject:
    """The net of a summary: built as often as it is measured, without data wherever that works."""

    def __init__(self, opt: Config, facts: Facts) -> None:
        self.opt, self.facts, self.device = opt, facts, select_device(opt)
        self.gan = models.task_of(opt.model) == "Gan"
        self.why_real: str | None = None  # why it runs on the CPU

    def net(self) -> Any:
        """On the meta device; with data where it is not built there, or does not run there."""
        facts, arguments = self.facts, self.opt.model_arguments
        if self.why_real is None:
            try:
                net = on_meta(self.opt.model, facts.num_classes, facts.size, facts.channels, arguments)
            except UsageError:
                raise
            except Exception as e:  # its constructor computes with its weights
                self.why_real = f"{type(e).__name__}: {e}"
        if self.why_real is not None:
            net = models.build(self.opt.model, facts.num_classes, facts.size, facts.channels, arguments)
        if self.opt.freeze:
            freeze(net, self.opt.freeze)
        return net

    def measure(self, work: Callable[[], Any]) -> Any:
        """`work` on nets without data; where one fails so, with data."""
        if self.why_real is None:
            try:
                return work()
            except UsageError:
                raise
            except Exception as e:  # it looks at numbers, or uses what runs on data alone
                self.why_real = f"{type(e).__name__}: {e}"
        return work()

    def layers(self) -> Layer:
        """Of one image."""
        net = self.net().eval()
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        return layers(net, lambda: self._outputs(net, 1, device))

    def memory(self) -> StepMemory:
        """Of a step of --batch-size images."""
        opt, net, mode, device = self.opt, self.net().train(), None, torch.device("cpu")
        if self.why_real is None:
            device = self.device.device
            net, mode = step_memory.without_data(net, device)
        parts = max(min(opt.accumulate, opt.batch_size // 2), 1)  # as engine/tasks/classify.py cuts a batch
        count = -(-opt.batch_size // parts)

        def forward() -> object:
            with Device(device, self.device.amp, self.device.memory_format).autocast():
                outputs = self._outputs(net, count, device)
            if self.gan:
                return bce(*(output.float() for output in outputs))
            labels = torch.zeros(count, dtype=torch.long, device=device)
            return F.cross_entropy(outputs[0].float(), labels)

        def optimizers() -> list[torch.optim.Optimizer]:
            if self.gan:
                return [torch.optim.Adam(net.parameters(), opt.lr1)]
            return [make_optimizer(net, opt, Device(device, None, self.device.memory_format))]

        return step_memory.measure(net, forward, optimizers, mode)

    def _outputs(self, net: Any, count: int, device: torch.device) -> list[torch.Tensor]:
        side = self.facts.size
        images = torch.zeros(count, net.in_channels, side, side, device=device)
        images = images.contiguous(memory_format=self.device.memory_format)
        if not self.gan:
            return [net(images)]
        fake = net.generator(torch.zeros(count, latent_size(net), 1, 1, device=device))
        return [net(images), net(fake)] if net.training else [net(images)]


def summarize(opt: Config, facts: Facts) -> dict[str, Any]:
    """Prints the layers of the net and its costs; returns the numbers: counts, and bytes of a training step."""
    models.check_input(
        opt.model, facts.num_classes, facts.size, opt.batch_size, facts.channels, None, opt.model_arguments
    )
    subject = Subject(opt, facts)
    root: Layer = subject.measure(subject.layers)
    root.name = printable(opt.model.rpartition(":")[2])
    memory: StepMemory = subject.measure(subject.memory)
    net = subject.net()
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    source = f" as for {printable(opt.dataset)}" if opt.dataset else ""
    images = f"images of {facts.channels} x {facts.size} x {facts.size}"
    print(f"{printable(opt.model)}: {counted(facts.num_classes, 'class', 'classes')}, {images}{source}")
    for line in [*table(root), "", *totals(opt, root, trainable, memory, subject)]:
        print(line)
    return {
        "parameters": root.parameters,
        "trainable": trainable,
        "multiply_adds": root.multiply_adds,
        **{name: getattr(memory, name) for name in ("weights", "gradients", "optimizer", "activations", "total")},
    }


def totals(opt: Config, root: Layer, trainable: int, memory: StepMemory, subject: Subject) -> list[str]:
    frozen = root.parameters - trainable
    lines = [
        f"parameters     {root.parameters:,}: {trainable:,} learn, {frozen:,} are frozen",
        f"multiply-adds  {amount(root.multiply_adds)} for "
        + ("one image made and one judged" if subject.gan else "one image"),
    ]
    average = memory.weights if opt.ema else 0
    step = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
    }
    step |= {"average": average} if average else {}
    parts = ", ".join(f"{name} {mebibytes(value)}" for name, value in step.items())
    numbers = NUMBERS[subject.device.amp]
    lines.append(
        f"training step  {mebibytes(memory.total + average)} MiB in {numbers} with batch size {opt.batch_size}:"
    )
    lines.append(f"               {parts}")
    if memory.optimizer is None:
        lines.append("               (without the state of the optimizer, which does not step without data)")
    if subject.why_real is not None:
        lines += ["run on the CPU, as it does not run without data:", printable(subject.why_real)[:80]]
    return lines


def table(root: Layer) -> list[str]:
    """The tree as lines of up to 80 characters, as deep as ROWS lines allow."""
    depth, rows = 1, _rows(root, 0, 1)
    while (deeper := _rows(root, 0, depth + 1)) != rows and len(deeper) <= ROWS:
        depth, rows = depth + 1, deeper
    head = f"{'layer':<26} {'type':<18} {'output':<12} {'parameters':>11} {'mult-adds':>9}"
    return [head, *rows]


def _rows(layer: Layer, level: int, depth: int) -> list[str]:
    name = "  " * level + layer.name + (f" x{layer.count}" if layer.count > 1 else "")
    shape = "x".join(map(str, layer.shape))
    cost = amount(layer.multiply_adds) if layer.multiply_adds else ""
    weights = f"{layer.parameters:,}" if layer.parameters else ""
    texts = [padded(shortened(text, width), width) for text, width in ((name, 26), (layer.kind, 18), (shape, 12))]
    row = f"{' '.join(texts)} {weights:>11} {cost:>9}".rstrip()
    below = [row for child in layer.children for row in _rows(child, level + 1, depth)] if level < depth else []
    return [row, *below]


def amount(number: int) -> str:
    """1813562368 -> 1.81 G."""
    unit = next((unit for unit, value in UNITS.items() if number >= value), "")
    return f"{number / UNITS.get(unit, 1):.3g} {unit}".strip() if number < 1e15 else f"{number:.3g}"


def mebibytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:,.{0 if size >= 10 * 2**20 else 1}f}"
