"""Where a net runs, and in which number format: the fastest of what is safe on this machine."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from config import Config
from data.loaders import cores
from utils import world
from utils.errors import RunError, UsageError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NUMBERS = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}
TENSOR_CORES = (7, 0)  # the compute capability from which on NVIDIA's GPUs multiply float16 faster than float32
NO_MEMORY = ("out of memory", "can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


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

    def hold(self, images: torch.Tensor) -> torch.Tensor:
        """The images of a data set, on the GPU where they take less than a quarter of what is free there."""
        if self.device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(self.device)[0] / 4:
            return images
        return images.to(self.device)

    def metadata(self) -> dict:
        """What of the machine the last bits of a training depend on."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {
            "device": name,
            "numbers": NUMBERS[self.amp],
            "threads": torch.get_num_threads(),
            "processes": world.now.size,
            "torch": torch.__version__.split("+")[0],
        }

    def __str__(self) -> str:
        facts = self.metadata()
        threads = f"{facts['threads']} thread" + "s" * (facts["threads"] != 1)
        several = f"{facts['processes']} processes x " if facts["processes"] > 1 else ""
        return f"{facts['device']}, {facts['numbers']}, {several}{threads}"


def size_of(state: object) -> int:
    """Bytes of all tensors in nested dicts, lists and tuples."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(size_of, values))


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given; a CPU has."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def select_device(opt: Config) -> Device:
    """The device that the options ask for.

    Raises:
        UsageError: --use-gpu, and there is none.
    """
    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if opt.use_gpu and gpu is None:
        raise UsageError("--use-gpu: PyTorch finds no GPU on this machine; leave the flag out to use the CPU")
    device = torch.device(gpu if gpu and opt.use_gpu is not False else "cpu")
    if device.type == "mps" and world.now.size > 1:
        raise UsageError("several processes cannot share this GPU: train with one process, or add --no-use-gpu")
    if device.type == "cuda":
        device = _own_gpu()
        torch.backends.cudnn.benchmark = True  # every step has the same shapes
    elif device.type == "cpu":
        keep_memory()
    if opt.threads or world.now.size > 1:
        torch.set_num_threads(opt.threads or cores())
    return Device(device, _amp(opt, device), torch.channels_last if opt.channels_last else torch.contiguous_format)


def _amp(opt: Config, device: torch.device) -> torch.dtype | None:
    """The type of autocast: what is asked for, else bfloat16 or float16 where the hardware multiplies it."""
    if opt.amp == "fp16" and device.type == "cpu":
        raise UsageError("--amp=fp16 is for GPUs: on this machine --amp=bf16 or --amp=off")
    if opt.amp != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[opt.amp]
    if has_bf16(device):
        return torch.bfloat16
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) >= TENSOR_CORES
    return torch.float16 if old else None


def _own_gpu() -> torch.device:
    """The GPU of this process. Processes that have one each send by NCCL; those that share one through the CPU."""
    if world.now.size == 1:
        return torch.device("cuda")
    count = torch.cuda.device_count()
    device = torch.device("cuda", world.now.local_rank % count)
    torch.cuda.set_device(device)
    shared = world.now.local_size > count
    if any(world.objects_from_each(shared)):
        if world.is_first():
            print(f"{world.now.local_size} processes share {count} GPU{'s' * (count > 1)}: slower than one for each")
    elif world.now.device_group is None:
        world.now.device_group = torch.distributed.new_group(backend="nccl", timeout=world.now.limit)
    return device


def keep_memory() -> None:
    """Has glibc keep what a step frees for the next one, as a GPU's allocator does.

    Else each large tensor is new memory, which the kernel clears page by page. Elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, -1)


@contextmanager
def oom_as_failure(opt: Config, image_size: int) -> Iterator[None]:
    """Turns the error of a GPU (or a machine) without memory left into a RunError that says what to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not isinstance(e, (torch.OutOfMemoryError, MemoryError)) and not any(words in str(e) for words in NO_MEMORY):
            raise
        smaller = f"--batch-size={opt.batch_size // 2}" if opt.batch_size > 1 else "a smaller --image-size"
        more = ", or --amp=auto" if opt.amp == "off" else ""
        raise RunError(
            f"out of memory with batch size {opt.batch_size} and image size {image_size}: try {smaller}"
            f"{' or a smaller --image-size' if opt.batch_size > 1 else ''}, a smaller model{more}"
        ) from e


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; where it is emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False
