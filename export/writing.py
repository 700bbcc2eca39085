"""What the command `export` does, step by step: the file, the comparison, and what lies beside it."""

from pathlib import Path
from typing import Any

import torch

from config import Config
from engine.setup import load_task
from engine.tasks.classify import ONE_VIEW
from engine.tasks.gan import Gan
from export import quantization
from export.card import card
from export.comparing import Comparison
from export.graph import Graph, check_torch, packages
from utils import exported, files
from utils.errors import RunError, UsageError, install
from utils.text import counted

FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
EIGHT_BITS = "model.int8.onnx"
PROGRAMS = Path(__file__).parent  # predict.py and generate.py, which are copied


class Export:
    """One export.

    Attributes:
        lines: what was done. told: the same for Python: file, largest differences, ...

    Raises:
        UsageError: it is no classifier, and is to be quantized; a package is missing, or torch is too old.
    """

    def __init__(self, opt: Config, checkpoint: dict[str, Any]) -> None:
        self.checkpoint = checkpoint
        exact = {"use_gpu": False, "amp": "off", **ONE_VIEW, "on_bad_image": "skip"}
        self.opt = opt.model_copy(update=exact)
        if opt.format != "safetensors":
            check_torch()
        if opt.format == "onnx":
            packages()
        self.task = load_task(self.opt, checkpoint)
        self.comparison = Comparison(self.opt, opt, checkpoint, self.task)
        self.generator = isinstance(self.task, Gan)
        if self.generator and opt.quantize:
            raise UsageError("--quantize is for classifiers, whose accuracy tells what it costs")
        source = Path(opt.load_path)
        own = (source.parent / "config.yaml").is_file()
        self.run = source.parent.name if own else source.stem
        self.folder = Path(opt.export_folder) if opt.export_folder else source.parent / "export"
        self.lines, self.told = self.comparison.lines, self.comparison.told

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
        self.told["file"] = str(path)
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
        if self.opt.parity:
            self.comparison.draw()
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
            facts.append(self.comparison.check(name, data, texts))
        both = {name: data}
        if self.opt.quantize:
            small = quantization.quantized(data, graph.input, self.comparison.inputs(quantization.IMAGES))
            facts.append(self.comparison.cost(EIGHT_BITS, small, data, texts))
            both[EIGHT_BITS] = small
        return both, facts

    def _weights(self) -> tuple[dict[str, bytes], list[str]]:
        try:
            from safetensors.torch import load, save
        except ImportError as e:
            raise UsageError(f"--format=safetensors needs the package safetensors: {install('safetensors')}") from e
        texts = exported.texts(self.checkpoint, self.run)
        own = self.task.net.state_dict()
        weights = {name: tensor.detach().clone().contiguous() for name, tensor in own.items()}
        data, name = save(weights, texts), FILES["safetensors"]
        if any(not torch.equal(tensor, own[key]) for key, tensor in load(data).items()):
            raise RunError("the weights cannot be read back as they are: nothing is written")
        fact = f"{counted(len(weights), 'tensor')}, equal bit for bit to the run's"
        self.lines.append(f"{self.folder / name}: {len(data) / 2**20:.1f} MiB; {fact}")
        return {name: data}, [fact]

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
