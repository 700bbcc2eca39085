"""What this program does on a GPU: `make gpu-check [DATA=DIR]` runs the tests that need one, then this table.

DIR holds CIFAR-10 as docs/data.md says; without it that row is left out. Without a GPU it says so and ends.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import models  # noqa: E402
from analysis.bench import bare_epoch, race  # noqa: E402
from config import Config  # noqa: E402
from data.array_data import ArrayData  # noqa: E402
from data.folder import Folder  # noqa: E402
from data.image_data import ImageData  # noqa: E402
from data.loaders import Batch  # noqa: E402
from data.transforms import Preprocess  # noqa: E402
from engine.device import Device, oom_as_failure, select_device, synchronize  # noqa: E402
from engine.loop import Trainer  # noqa: E402
from engine.setup import build_training  # noqa: E402
from engine.tasks.base import NonFiniteError  # noqa: E402
from engine.tasks.classify import Classify  # noqa: E402
from runs.run import Run  # noqa: E402
from utils.errors import RunError  # noqa: E402
from utils.progress import in_threads  # noqa: E402

SIDE, PHOTOS, TIMES, STEPS, ROUNDS = 224, 1600, 8, 20, 3
BATCH = {"resnet18": 256, "resnet50": 128}
TESTS = ("tests/test_processes.py", "tests/test_whole_batch.py")  # those that use a GPU where there is one
ROW = "| {:<60} | {:>28} |"


def row(what: str, figure: str) -> None:
    print(ROW.format(what, figure), flush=True)


# ---- the step, on images in the GPU's memory


def step_rate(name: str, device: Device, compiled: bool = False, **options: Any) -> float:
    """Images a second of the training step."""
    torch.manual_seed(0)
    net, count = models.build(name, 10, SIDE), BATCH[name]
    opt = Config(model=name, batch_size=count, optimizer="SGD", lr=1e-3, **options)
    task = Classify(net, [str(k) for k in range(10)], Preprocess(SIDE), device, opt, items=[])
    if compiled:
        task.net = torch.compile(task.net)
    labels = torch.arange(count) % 10
    batch = Batch(torch.randint(256, (count, SIDE, SIDE, 3)).to(torch.uint8), labels, labels).to(device.device)
    for _ in range(5):
        task.train_step(batch)
    synchronize(device.device)
    start = time.perf_counter()
    for _ in range(STEPS):
        task.train_step(batch)
    synchronize(device.device)
    return STEPS * count / (time.perf_counter() - start)


def steps(device: Device, compiled: bool) -> None:
    """Number formats, memory formats, determinism, torch.compile."""
    plain = replace(device, amp=None, memory_format=torch.contiguous_format)
    rivals = {
        "float32": plain,
        "bf16": replace(plain, amp=torch.bfloat16),
        "bf16, channels last": replace(device, amp=torch.bfloat16),
        "fp16 with a scaled loss, channels last": replace(device, amp=torch.float16),
    }
    for name in BATCH:
        for what, place in rivals.items():
            row(f"{name}, batch {BATCH[name]}, step: {what}", f"{step_rate(name, place):.0f} img/s")
        with deterministic():
            row(f"{name}, step: as on this GPU, deterministic", f"{step_rate(name, device):.0f} img/s")
        if compiled:
            start = time.perf_counter()
            rate = step_rate(name, device, compiled=True)
            row(f"{name}, step: torch.compile", f"{rate:.0f} img/s, {time.perf_counter() - start:.0f} s")


@contextmanager
def deterministic() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


# ---- loading


def write_photos(folder: Path) -> None:
    """JPEGs of 500 x 375, smooth and noisy as photographs are, in two classes."""
    rng = np.random.default_rng(0)
    base = [rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(64)]

    def write(number: int) -> None:
        image = Image.fromarray(base[number % 64]).resize((500, 375), Image.Resampling.BICUBIC)
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        image.save(path, quality=90)

    for name in "ab":
        (folder / name).mkdir(parents=True)
    list(in_threads(write, range(PHOTOS), "writing", 16))


def ratio_to_step(opt: Config, dataset: ImageData, what: str) -> None:
    """This program's epoch against its own step on images that lie in memory, in turns."""
    task, loaders, _ = build_training(opt, dataset)
    with loaders.train as train, loaders.val, tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, train, loaders.val, Run(Path(folder)), opt, {})

        def epoch() -> None:
            trainer.state = type(trainer.state)()
            trainer.train_epoch()

        with mock.patch("builtins.print"), mock.patch("analysis.bench.ROUNDS", ROUNDS):
            rates = race({"ours": epoch, "step": bare_epoch(task, train)}, len(train.items), task.device.device)
    ours, bare = (statistics.median(rates[name]) for name in ("ours", "step"))
    both = statistics.median(a / b for a, b in zip(rates["ours"], rates["step"], strict=True))
    row(what, f"{ours:.0f} of {bare:.0f} img/s: {both:.2f}")


def loading(folder: Path) -> None:
    write_photos(folder)
    for name, count in BATCH.items():
        dataset = Folder(folder)
        dataset.items = dataset.items * TIMES
        opt = Config(model=name, batch_size=count, image_size=SIDE, min_crop=0.25, flip=True, val_fraction=0.01)
        ratio_to_step(opt, dataset, f"{name} at {SIDE} from JPEGs of 500 x 375 / the step alone")
    data = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in sorted(folder.glob("*/*.jpg"))[:512]]
    start = time.perf_counter()
    for one in data[:64]:
        decode_jpeg(one, ImageReadMode.RGB)
    row("decoding whole JPEGs on the CPU, one thread", f"{64 / (time.perf_counter() - start):.0f} img/s")
    if torch.cuda.is_available():
        decode_jpeg(data[:16], ImageReadMode.RGB, device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        decode_jpeg(data, ImageReadMode.RGB, device="cuda")
        torch.cuda.synchronize()
        row("decoding whole JPEGs on the GPU", f"{len(data) / (time.perf_counter() - start):.0f} img/s")


def small_sets() -> None:
    """A set that the GPU holds, against one that comes from the machine's memory batch by batch."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 20_000)
    opt = Config(model="CifarNet", batch_size=500, optimizer="Muon", lr=0.01, shift=2, cutout=8)
    opt = opt.model_copy(update={"image_size": 32, "min_crop": 1.0, "flip": True, "val_fraction": 0.01})
    ratio_to_step(opt, ArrayData(images, labels), "CifarNet, batch 500, a set that the GPU holds / the step alone")
    with mock.patch.object(Device, "hold", lambda self, images: images):
        ratio_to_step(opt, ArrayData(images, labels), "CifarNet, the same set in the machine's memory / the step alone")


# ---- what must not go wrong


def out_of_memory() -> None:
    if not torch.cuda.is_available():
        return
    device = select_device(Config())
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    message = "no failure"
    try:
        with oom_as_failure(Config(batch_size=BATCH["resnet50"]), SIDE):
            step_rate("resnet50", device)
    except RunError as e:
        message = "one line" if "\n" not in str(e) else "several lines"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    row("out of memory", message)


def not_finite(device: Device) -> None:
    opt = Config(model="resnet18", on_nan="skip", optimizer="SGD")
    task = Classify(models.build("resnet18", 2, 64), ["a", "b"], Preprocess(64), device, opt, items=[])
    labels = torch.arange(8) % 2
    batch = Batch(torch.zeros(8, 64, 64, 3, dtype=torch.uint8), labels, labels)
    before = {name: value.clone() for name, value in task.net.state_dict().items()}
    hook = task.net.register_forward_hook(lambda module, inputs, logits: logits * float("nan"))
    try:
        task.train_step(batch)
        told = "not noticed"
    except NonFiniteError:
        told = "left out, nothing has changed"
    hook.remove()
    same = all(torch.equal(value, before[name]) for name, value in task.net.state_dict().items())
    row("a step that is not finite", told if same else "weights have changed")


def run_main(*words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "main.py", *words], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def resumed_elsewhere(folder: Path) -> None:
    run = folder / "runs" / "demo"
    words = ["train", "--vis-port=None", f"--checkpoint-dir={run.parent}"]
    first = run_main(*words, "--config=demo", "--name=demo", "--max-epoch=1")[0]
    on_cpu = run_main(*words, f"--resume={run}", "--max-epoch=2", "--no-use-gpu")[0]
    back = run_main(*words, f"--resume={run}", "--max-epoch=3")[0]
    row("resumed: GPU, then CPU, then GPU", "works" if (first, on_cpu, back) == (0, 0, 0) else "fails")


def cifar10(data: str, folder: Path) -> None:
    run = folder / "runs" / "cifar10"
    words = ["--dataset=Folder", f"--train-data-root={data}", f"--checkpoint-dir={run.parent}", "--name=cifar10"]
    start = time.perf_counter()
    code, text = run_main("train", "--config=cifar10", *words, "--vis-port=None")
    seconds, log = time.perf_counter() - start, (run / "log.txt").read_text() if code == 0 else text
    last = [line for line in log.splitlines() if "acc " in line][-1:]
    row("preset cifar10, with start and reading the files", f"{seconds:.0f} s")
    print("   ", *last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="")
    parser.add_argument("--compile", action="store_true", help="with torch.compile too (minutes)")
    parser.add_argument("--no-tests", action="store_true", help="the table alone")
    asked = parser.parse_args()
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        print("gpu-check: PyTorch finds no GPU on this machine (CUDA, MPS): there is nothing to check")
        return
    if not asked.no_tests:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n4", *TESTS], cwd=ROOT, env=os.environ | {"TEST_GPU": "1"}
        )
    device = select_device(Config())
    print(f"{device}; torch {torch.__version__}")
    row("what", "figure")
    print("|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        parts: list[Callable[[], None]] = [
            lambda: steps(device, asked.compile),
            lambda: loading(Path(folder, "photos")),
            small_sets,
            *([lambda: cifar10(asked.data, Path(folder))] if asked.data else []),
            out_of_memory,
            lambda: not_finite(device),
            lambda: resumed_elsewhere(Path(folder)),
        ]
        for part in parts:
            try:
                part()
            except Exception as e:  # the other rows count too
                row(f"{type(e).__name__}: {' '.join(str(e).split())[:40]}", "FAILED")


if __name__ == "__main__":
    main()
