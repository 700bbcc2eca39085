"""A net in 8-bit integers: ONNX Runtime's static quantization, with the ranges that training images give."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils import exported
from utils.errors import RunError

IMAGES = 128  # of which the ranges are taken


def quantized(model: bytes, name: str, inputs: Iterator[np.ndarray]) -> bytes:
    """The same ONNX file with weights (of each channel) and activations in 8 bits.

    Args:
        name: of the net's input. inputs: batches of what it is given.

    Raises:
        RunError: ONNX Runtime cannot.
    """
    exported.onnxruntime()
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            batch = next(inputs, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, result = (Path(folder, f"{step}.onnx") for step in ("plain", "prepared", "result"))
        plain.write_bytes(model)
        try:
            shape_inference.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(str(prepared), str(result), Reader(), per_channel=True)
        except Exception as e:
            raise RunError(f"ONNX Runtime cannot quantize this net: {(str(e).splitlines() or [''])[0]}") from e
        return result.read_bytes()
