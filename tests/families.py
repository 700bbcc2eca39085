"""A net of every model of this folder, and of families of torchvision and timm, exported and compared with itself.

    python tests/families.py [NAME...] [--everything]

Prints the largest differences; the nets are small, untrained, and on random images. Batch norm has seen some, so that
what comes out is of a size that says something.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models  # noqa: E402
from config import Config  # noqa: E402
from data.batch import Batch  # noqa: E402
from data.transforms import Preprocess  # noqa: E402
from engine.device import select_device  # noqa: E402
from engine.tasks.base import task_class  # noqa: E402
from engine.tasks.gan import Gan  # noqa: E402
from export import parity  # noqa: E402
from export.graph import Graph  # noqa: E402
from models.exported import ExportedNet  # noqa: E402
from utils import exported  # noqa: E402

CLASSES = ["a", "b", "c"]
GREY = ("DigitNet", "ConvNet", "MNISTNet", "MNISTGAN", "LeNet")
SIDES = {"AnimeGAN": 96, "MNISTGAN": 28, "inception_v3": 192, "AlexNet": 224, "SqueezeNet": 224}
SIDES |= {"timm/ghostnet_100": 64, "timm/resnet10t": 64}  # less than their own takes less time
TORCHVISION = ["alexnet", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"]
TORCHVISION += ["regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "vgg11_bn"]
TIMM = ["efficientvit_b0", "ghostnet_100", "levit_128s", "mixer_s32_224", "mobilevit_xxs", "resnet10t"]
TIMM += ["vit_tiny_patch16_224", "xcit_nano_12_p16_224"]
FAMILIES = [*TORCHVISION, *(f"timm/{name}" for name in TIMM)]
QUICK = ["resnet18", "squeezenet1_1", "mnasnet0_5", "mobilenet_v3_small", "timm/resnet10t", "timm/vit_tiny_patch16_224"]
MORE = ["convnext_tiny", "densenet121", "inception_v3", "maxvit_t", "resnext50_32x4d", "swin_t", "vit_b_32"]
MORE += ["timm/convnextv2_atto", "timm/eva02_tiny_patch14_224", "timm/poolformer_s12"]
MORE += ["timm/swinv2_tiny_window8_256", "timm/cspresnet50"]


def task_of(name: str) -> Any:
    """A task with an untrained net."""
    torch.manual_seed(0)
    channels = 1 if name in GREY else 3
    side = SIDES.get(name) or models.preprocessing(name).get("image_size") or (224 if name in MORE else 64)
    preprocess = Preprocess(side, mean=(0.5,) * channels, std=(0.25,) * channels)
    net: Any = models.build(name, len(CLASSES), side, channels).eval()
    if not hasattr(net, "generator"):
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for module in norms:
            module.momentum = 1.0
            module.train()
        with torch.no_grad():
            net(preprocess.normalize(drawn(16, side, channels, 2)).expand(-1, net.in_channels, -1, -1))
    opt = Config(model=name, use_gpu=False, amp="off", threads=1)
    return task_class(name, net)(net, CLASSES, preprocess, select_device(opt), opt)


def drawn(count: int, side: int, channels: int, seed: int) -> torch.Tensor:
    """(count, side, side, channels) uint8."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, side, side, channels), generator=draws).to(torch.uint8)


def compared(task: Any, kind: str = ".onnx", pixels: bool = False, images: int = 34) -> parity.Parity:
    """The differences between the task's net and the file of it."""
    graph = Graph.of(task, pixels)
    made = {"metadata": {"classes": CLASSES, "preprocess": task.preprocess.state_dict()}}
    texts = exported.texts(made, "run", input=graph.input, output=graph.output)
    data = graph.onnx_file(texts)[0] if kind == ".onnx" else graph.torch_file(texts)
    net: Any = ExportedNet(data, kind, texts)
    if isinstance(task, Gan):
        return parity.compare_generators(task, net.run, pixels)
    side, channels = task.preprocess.image_size, len(task.preprocess.mean)
    shown = drawn(images, side, channels, 1)
    batch = Batch(shown, torch.zeros(images), torch.arange(images))
    sample = parity.Sample(shown, next(iter(task.predict([batch])))[1], [])
    return parity.compare(sample, parity.with_net(task, net), log_odds=pixels)


def main(*names: str) -> None:
    every = [*models.names(), *FAMILIES, *(MORE if "--everything" in names else [])]
    bad = 0
    for name in [name for name in names if name[0] != "-"] or every:
        start = time.monotonic()
        try:
            found = compared(task_of(name))
            bad += not found.holds
            side = f"{found.logits:.1e} of {found.scale:9.3g}" if found.logits is not None else " " * 20
            print(f"{name:34} {side}  {found.probabilities:.1e}  {'' if found.holds else 'NOT EQUAL'}", end="")
        except Exception as e:
            bad += 1
            print(f"{name:34} {type(e).__name__}: {str(e)[:200]}", end="")
        print(f"  {time.monotonic() - start:.1f} s", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
