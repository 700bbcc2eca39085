"""Where a net runs, and in which number format: what is safe and faster on this machine."""

from dataclasses import dataclass

import torch

from config import Config
from data.loaders import cores
from utils.errors import UsageError


@dataclass(frozen=True)
class Device:
    """Attributes: torch.device; autocast dtype, or None for plain float32; the memory format of images."""

    device: torch.device
    amp: torch.dtype | None
    memory_format: torch.memory_format

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None)

    @staticmethod
    def workers(num_workers: int | None) -> int:
        """How many processes read images: what was asked for, else one a core; on a single core none."""
        if num_workers is not None:
            return num_workers
        return min(cores(), 16) if cores() > 1 else 0

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{name}, {'bf16' if self.amp else 'fp32'}, {torch.get_num_threads()} threads"


def pick(opt: Config) -> Device:
    """The device that the options ask for.

    Raises:
        UsageError: --use-gpu, and there is none.
    """
    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if opt.use_gpu and gpu is None:
        raise UsageError("--use-gpu: PyTorch finds no GPU on this machine; leave the flag out to use the CPU")
    device = torch.device(gpu if gpu and opt.use_gpu is not False else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # every step has the same shapes
    amp = torch.bfloat16 if opt.amp == "bf16" or (opt.amp == "auto" and has_bf16(device)) else None
    return Device(device, amp, torch.channels_last if opt.channels_last else torch.contiguous_format)


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; where it is emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False
