"""What the command `export` does, step by step: the file, the comparison, and what lies beside it."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from config import Config
from data.image_data import ImageData, Items
from data.loaders import EpochLoader
from engine import saved
from engine.device import select_device
from engine.setup import load_task, val_loader
from engine.tasks.gan import Gan
from engine.validation import validate
from export import parity, quantization
from export.card import card
from export.graph import Graph
from models.exported import ExportedNet
from utils import exported, files
from utils.errors import RunError, UsageError
from utils.text import counted

FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
PROGRAMS = Path(__file__).parent  # predict.py and generate.py, which are copied


class Export:
    """One export.

    Attributes:
        lines: what was done. told: the same for Python: file, largest differences, ...

    Raises:
        UsageError: it is no classifier, and is to be quantized; or a package is missing.
    """

    def __init__(self, opt: Config, checkpoint: dict[str, Any]) -> None:
        self.checkpoint, self.asked = checkpoint, opt
        exact = {"use_gpu": False, "amp": "off", "flip_test": False, "on_bad_image": "skip"}
        self.opt = opt.model_copy(update=exact)
        self.task = load_task(self.opt, checkpoint)
        self.generator = isinstance(self.task, Gan)
        if self.generator and opt.quantize:
            raise UsageError("--quantize is for classifiers, whose accuracy tells what it costs")
        source = Path(opt.load_path)
        own = (source.parent / "config.yaml").is_file()
        self.run = source.parent.name if own else source.stem
        self.folder = Path(opt.export_folder) if opt.export_folder else source.parent / "export"
        self.lines: list[str] = []
        self.told: dict[str, Any] = {}

    def write(self) -> None:
        """Makes the file, compares it, and writes it with what belongs beside it.

        Raises:
            RunError: it answers otherwise than the net; nothing is written.
        """
        if self.opt.format == "safetensors":
            data, facts = self._weights()
        else:
            data, facts = self._net()
        with files.disk_errors_as_failure(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for name, content in data.items():
            with files.atomic_write(self.folder / name, "wb") as file:
                file.write(content)
        path = self.folder / next(iter(data))
        self._beside(path.name, facts)
        self.told = {"file": str(path), **self.told}
        program = self.folder / ("generate.py" if self.generator else "predict.py")
        if self.opt.format == "onnx":
            self.lines.append(f"next: python {program} " + ("1" if self.generator else "IMAGE..."))
        elif not self.generator:
            self.lines.append(f"next: python main.py predict --load-path={path} IMAGE...")

    # ---- the file

    def _net(self) -> tuple[dict[str, bytes], list[str]]:
        """{name: file}, the main one first; and what is known of it."""
        graph = Graph.of(self.task, self.opt.pixels)
        texts = exported.texts(self.checkpoint, self.run, input=graph.input, output=graph.output)
        sample, dataset = self._sample() if self.opt.parity else (None, None)
        name, opset = FILES[self.opt.format], ""
        if self.opt.format == "onnx":
            data, version = graph.onnx_file(texts)
            opset = f", opset {version}"
        else:
            data = graph.torch_file(texts)
        shapes = " x ".join(["N", *map(str, graph.example.shape[1:])])
        facts = [
            f"{graph.input} ({shapes}, {str(graph.example.dtype).removeprefix('torch.')}) -> {graph.output}, "
            f"batches of any size{opset}"
        ]
        self.lines.append(f"{self.folder / name}: {len(data) / 2**20:.1f} MiB; {facts[0]}")
        if self.opt.parity:
            facts.append(self._parity(name, data, texts, sample, dataset))
        both = {name: data}
        if self.opt.quantize:
            both["model.int8.onnx"], fact = self._quantized(data, texts)
            facts.append(fact)
        return both, facts

    def _weights(self) -> tuple[dict[str, bytes], list[str]]:
        try:
            from safetensors.torch import load, save
        except ImportError as e:
            raise UsageError(
                f"--format=safetensors needs the package safetensors: {exported.INSTALL} safetensors"
            ) from e
        texts = exported.texts(self.checkpoint, self.run)
        own = self.task.net.state_dict()
        weights = {name: tensor.detach().clone().contiguous() for name, tensor in own.items()}
        data, name = save(weights, texts), FILES["safetensors"]
        if any(not torch.equal(tensor, own[key]) for key, tensor in load(data).items()):
            raise RunError("the weights cannot be read back as they are: nothing is written")
        fact = f"{counted(len(weights), 'tensor')}, equal bit for bit to the run's"
        self.lines.append(f"{self.folder / name}: {len(data) / 2**20:.1f} MiB; {fact}")
        return {name: data}, [fact]

    # ---- the comparison

    def _images(self, count: int | None, split: str = "val") -> tuple[ImageData, Items]:
        """So many images of a part, drawn by the seed; all where count is None."""
        try:
            dataset = saved.open_dataset(self.opt, self.checkpoint)
        except UsageError as e:
            raise UsageError(f"no images to compare with ({e}): give --train-data-root=DIR, or --no-parity") from e
        items = dataset.part(split, self.opt.val_fraction, self.opt.seed)
        if count is not None and count < len(items):
            items = random.Random(self.opt.seed).sample(items, count)
        return dataset, items

    def _loader(self, dataset: ImageData, items: Items, size: int) -> EpochLoader:
        return val_loader(self.opt.model_copy(update={"batch_size": size}), dataset, items, self.task)

    def _sample(self) -> tuple[parity.Sample | None, ImageData | None]:
        if self.generator:
            return None, None
        dataset, items = self._images(parity.IMAGES)
        with self._loader(dataset, items, max(parity.SIZES)) as loader:
            return parity.Sample.of(self.task, loader), dataset

    def _parity(
        self, name: str, data: bytes, texts: dict[str, str], sample: parity.Sample | None, dataset: ImageData | None
    ) -> str:
        """Compares, and says how far the figures of `val` are from this; returns a line for the card."""
        net: Any = ExportedNet(data, Path(name).suffix, texts)
        if sample is None or dataset is None:
            found = parity.compare_generators(self.task, net.run, self.opt.pixels).checked(name)
        else:
            own = parity.with_net(self.task, net)
            found = parity.compare(sample, own, log_odds=self.opt.pixels).checked(name)
        self.told |= {"logits": found.logits, "probabilities": found.probabilities, "changed": found.changed}
        if self.asked.flip_test:
            self.lines.append(
                "the file answers for an image alone; val: the mean with its mirror image (--flip-test)"
            )
        line = f"the same answers as the net, in batches of {', '.join(map(str, sorted(parity.SIZES)))}: {found}"
        self.lines.append(line)
        if sample is not None and dataset is not None:
            self._reading(sample, dataset)
            self._as_val(sample)
        return line

    def _reading(self, sample: parity.Sample, dataset: ImageData) -> None:
        if self.opt.format != "onnx":
            return
        count, others = parity.reading(sample, dataset, self.task)
        if count:
            told = f"predict.py reads {count - len(others)} of {counted(count, 'image file')} as the training did"
            self.lines.append("; ".join([told, *others[:3]]))

    def _as_val(self, sample: parity.Sample) -> None:
        """How the number format of `val` changes the answers."""
        device = select_device(self.asked)
        if device.amp is None:
            return
        task = load_task(self.asked.model_copy(update={"flip_test": False}), self.checkpoint)
        found = parity.compare(sample, task, sizes={max(parity.SIZES): parity.SIZES[max(parity.SIZES)]})
        self.lines.append(
            f"val computes in {device.metadata()['numbers']} here, and the file in fp32: probabilities differ by up to "
            f"{found.probabilities:.1e}, classes changed: {found.changed} of {found.images}"
        )
        select_device(self.opt)

    # ---- 8 bits

    def _quantized(self, data: bytes, texts: dict[str, str]) -> tuple[bytes, str]:
        """The file in 8 bits, and what that costs on the whole validation part."""
        dataset, items = self._images(quantization.IMAGES, "train")

        def inputs() -> Iterator[Any]:
            with self._loader(dataset, items, 16) as loader:
                for batch in itertools.islice(loader.set_epoch(0), quantization.IMAGES // 16):
                    pixels = batch.images.contiguous()
                    yield (pixels if self.opt.pixels else self.task.preprocess.normalize(pixels).contiguous()).numpy()

        small = quantization.quantized(data, inputs())
        dataset, items = self._images(None)
        scores = []
        for model in (data, small):
            task = parity.with_net(self.task, ExportedNet(model, ".onnx", texts))
            with self._loader(dataset, items, self.opt.batch_size) as loader:
                scores.append(validate(task, loader)[0]["accuracy"])
        self.told |= {"accuracy": scores[0], "accuracy_int8": scores[1]}
        line = f"model.int8.onnx, {len(small) / 2**20:.1f} MiB: accuracy {scores[1]:.4f} in place of {scores[0]:.4f} "
        line += f"({scores[1] - scores[0]:+.4f}) on {counted(len(items), 'validation image')}"
        self.lines.append(line)
        return small, line

    # ---- beside it

    def _beside(self, name: str, facts: list[str]) -> None:
        if self.opt.format == "onnx":
            program = "generate.py" if self.generator else "predict.py"
            with files.atomic_write(self.folder / program) as file:
                file.write((PROGRAMS / program).read_text(encoding="utf-8"))
        path = self.folder / "README.md"
        if path.exists():
            self.lines.append(f"{path} is kept as it is: remove it to have it written anew")
            return
        with files.atomic_write(path) as file:
            file.write(card(self.checkpoint, self.run, name, facts))
        self.lines.append(f"{path}: a model card; fill in the licence, the use and the limits")
