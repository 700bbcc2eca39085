"""The net that is exported, with or without what is before and behind it, and the file that holds it."""

import contextlib
import io
import json
import logging
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from data.transforms import Preprocess
from engine.tasks.base import Task
from engine.tasks.gan import Gan, as_bytes, latent_size
from utils import exported
from utils.errors import RunError, UsageError, install

EXAMPLES = 2  # in the batch that the net is traced with: with 1, torch takes the batch's size for a constant
TORCH = (2, 9)  # the oldest whose exporters know batch norm and batches of any size
LARGEST = 2**31  # bytes of an ONNX file: a limit of protobuf


class Classifier(nn.Module):
    """images (N, C, S, S) float32, (x / 255 - mean) / std -> logits (N, K).

    With `pixels`: (N, S, S, C) uint8 -> probabilities (N, K). Grey images are repeated for a net of three channels.
    """

    def __init__(self, net: Any, preprocess: Preprocess, pixels: bool) -> None:
        super().__init__()
        self.net, self.preprocess, self.pixels, self.channels = net, preprocess, pixels, net.in_channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.pixels:
            images = self.preprocess.normalize(images)
        if images.shape[1] == 1 != self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        logits = self.net(images)
        return logits.softmax(dim=1) if self.pixels else logits


class Generator(nn.Module):
    """latents (N, latent_size) float32 -> images (N, C, S, S) in [-1, 1]; with `pixels`: (N, S, S, C) uint8."""

    def __init__(self, net: nn.Module, pixels: bool) -> None:
        super().__init__()
        self.net, self.pixels = net, pixels

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        images = self.net(latents[:, :, None, None])
        return as_bytes(images) if self.pixels else images


@dataclass
class Graph:
    """The net to export in eval mode, on the CPU; the names of its input and output; an example of the input."""

    net: nn.Module
    input: str
    output: str
    example: torch.Tensor

    @classmethod
    def of(cls, task: Task, pixels: bool) -> "Graph":
        """That of a task.

        Raises:
            UsageError: a task of another kind than classifiers and GANs.
        """
        if isinstance(task, Gan):
            net: nn.Module = Generator(task.eval_generator, pixels)
            return cls(
                net.eval(), "latents", "pixels" if pixels else "images", torch.randn(EXAMPLES, latent_size(task.net))
            )
        if type(task).predict is Task.predict:
            raise UsageError(
                f"export knows classifiers and GANs: the task of {task.opt.model} is {type(task).__name__}"
            )
        side, channels = task.preprocess.image_size, len(task.preprocess.mean)
        net = Classifier(task.net, task.preprocess, pixels).eval()
        if pixels:
            example = torch.randint(256, (EXAMPLES, side, side, channels)).to(torch.uint8)
            return cls(net, "pixels", "probabilities", example)
        return cls(net, "images", "logits", torch.randn(EXAMPLES, channels, side, side))

    def traced(self) -> torch.export.ExportedProgram:
        """With a batch of any size.

        Raises:
            RunError: torch.export cannot follow its forward.
        """
        with _silent("torch.export"), torch.no_grad():
            batch = {0: torch.export.Dim("N", min=1)}
            return torch.export.export(self.net, (self.example,), dynamic_shapes=(batch,), strict=False)

    def torch_file(self, texts: dict[str, str]) -> bytes:
        """The file of torch.export.save."""
        file = io.BytesIO()
        with _silent("torch.export"):
            torch.export.save(self.traced(), file, extra_files={exported.EXTRA: json.dumps(texts)})
        return file.getvalue()

    def onnx_file(self, texts: dict[str, str]) -> tuple[bytes, int]:
        """The ONNX file, all in one, and its opset.

        Raises:
            UsageError: onnx or onnxscript is not installed.
            RunError: the exporter cannot translate the net, or the file would be above 2 GiB.
        """
        onnx = packages()
        if (size := sum(value.nbytes for value in self.net.state_dict().values())) >= LARGEST:
            raise RunError(
                f"an ONNX file in one part holds up to 2 GiB, and this net has {size / 2**30:.1f} GiB: take "
                "--format=torch"
            )
        program = self.traced()
        with _silent("torch.onnx"):
            names: Any = {"input_names": [self.input], "output_names": [self.output]}
            found: Any = torch.onnx.export(program, (self.example,), dynamo=True, verbose=False, **names)
            proto = found.model_proto
        onnx.helper.set_model_props(proto, texts)
        return proto.SerializeToString(), next(o.version for o in proto.opset_import if not o.domain)


def check_torch() -> None:
    """Raises UsageError where torch is older than TORCH."""
    found, wanted = torch.__version__.split("+")[0], ".".join(map(str, TORCH))
    if tuple(map(int, found.split(".")[:2])) < TORCH:
        needed = install(f"'torch>={wanted}'")
        raise UsageError(
            f"export needs torch {wanted} or newer, and this is {found}: {needed}; --format=safetensors does without"
        )


def packages() -> Any:
    """The package onnx, with which, and onnxscript, torch writes ONNX.

    Raises:
        UsageError: one is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch imports it
    except ImportError as e:
        needed = install("onnx", "onnxscript", "onnxruntime")
        raise UsageError(
            f"--format=onnx needs the packages onnx, onnxscript and onnxruntime: {needed}; --format=torch needs none"
        ) from e
    exported.onnxruntime()
    return onnx


@contextlib.contextmanager
def _silent(who: str) -> Any:
    """Without what the exporter prints and logs; what it raises as one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    except (UsageError, RunError, MemoryError):
        raise
    except Exception as e:
        lines = str(e.__cause__ or e).strip().splitlines() or [type(e).__name__]
        raise RunError(f"the net cannot be exported: {who} says {lines[0]}") from e
    finally:
        logging.disable(before)
