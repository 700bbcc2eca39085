"""How good generated images are: how far their features lie from those of real ones, and how varied they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

import models
from data.transforms import Preprocess
from engine.device import Device
from models.basic_module import BasicModule
from utils import checkpoints
from utils.errors import UsageError

PAIRED = 256  # images of each kind whose distances are taken
COLLAPSED, ONE_SIDED = 0.2, 0.5  # of the real images' mean difference, and spread


@dataclass
class Features:
    """What a judge saw: features (N, F), probabilities (N, K), and some of the images (n, S, S, C) uint8."""

    features: torch.Tensor
    probs: torch.Tensor
    some: torch.Tensor


class GanEvaluator:
    """Compares generated images with real ones by a net's features: what goes into its last linear layer.

    Args:
        path: a run of a classifier; None: a CifarNet of fixed random weights inspections at them at 32 x 32.
        preprocess: of the images.

    Raises:
        UsageError: no such run, or not of a classifier that can look at such images.
    """

    def __init__(self, path: str | None, preprocess: Preprocess, device: Device) -> None:
        self.device, self.path, channels = device, path, len(preprocess.mean)
        if path is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net = models.build("CifarNet", 10, 32, channels=channels)
            self.preprocess = Preprocess(32, 1.0, preprocess.mean, preprocess.std)
        else:
            net, self.preprocess = classifier(path, channels)
        self.net = net.eval().to(device.device, memory_format=device.memory_format)
        linear = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UsageError(f"--judge={path} holds {net.model_name}, which has no linear layer to take features from")
        linear[-1].register_forward_pre_hook(lambda layer, inputs: setattr(self, "features", inputs[0]))

    @torch.inference_mode()
    def look(self, parts: Iterable[torch.Tensor]) -> Features:
        """Looks at images that come in parts (n, S, S, C) uint8."""
        features, probs, some = [], [], []
        channels, side = len(self.preprocess.mean), self.preprocess.image_size
        for images in parts:
            x = self.preprocess.normalize(images.to(self.device.device).expand(-1, -1, -1, channels))
            if x.shape[3] != side:
                x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
            logits = self.net(x.expand(-1, self.net.in_channels, -1, -1))  # a net of 3 may have learned from grey
            features.append(self.features.flatten(1).float().cpu())
            probs.append(logits.float().softmax(dim=1).cpu())
            if sum(map(len, some)) < PAIRED:
                some.append(images.cpu())
        return Features(torch.cat(features), torch.cat(probs), torch.cat(some)[:PAIRED])

    def compare(self, real: Features, made: Features) -> dict:
        """The figures of generated images.

        distance: Fréchet, of the features. variety: the mean difference of two of them, by that of two real ones.
        With a classifier also confidence, the mean probability of the likeliest class, and spread, the entropy of the
        classes that it sees, from 0 (all of one) to 1 (all as often); and those of the real images.
        """
        distance = frechet(real.features, made.features)
        figures = {
            "distance": distance,
            "variety": difference(made.some) / max(difference(real.some), 1e-9),
            "score": -distance,
        }
        if self.path:
            figures |= {"confidence": confidence(made), "spread": spread(made)}
            figures |= {"real_confidence": confidence(real), "real_spread": spread(real)}
        return figures

    def bounds(self, real: Features) -> dict:
        """What to hold a distance against: that of one half of the real images to the other, and that of noise."""
        half = len(real.features) // 2
        rng = torch.Generator().manual_seed(0)
        sizes = [len(part) for part in real.features.split(64)]
        seen = self.look(
            torch.randint(0, 256, (n, *real.some.shape[1:]), dtype=torch.uint8, generator=rng) for n in sizes
        )
        halves = {"distance_of_real": frechet(real.features[:half], real.features[half:])} if half > 1 else {}
        return halves | {"distance_of_noise": frechet(real.features, seen.features)}

    def one_line(self, figures: dict) -> str:
        return f"Fréchet distance {figures['distance']:.3g}  variety {figures['variety']:.2f}"

    def doubt(self, figures: dict) -> str | None:
        if figures["variety"] < COLLAPSED:
            sign = f"two of its images differ {figures['variety']:.2f} times as much as two real ones"
        elif figures.get("spread", 1) < ONE_SIDED * figures.get("real_spread", 1):
            sign = f"of the judge's classes it makes few: spread {figures['spread']:.2f}"
        else:
            return None
        remedies = "more epochs, a smaller --batch-size, --d-shift=12 (for few images), a lower --lr2"
        return f"the generator has collapsed: {sign}. What may help: {remedies}"

    def table(self, figures: dict) -> str:
        lines = [f"{name.replace('_', ' '):<18} {value:.4g}" for name, value in figures.items() if name != "score"]
        return "\n".join([*lines, *filter(None, [self.doubt(figures)])])


def classifier(path: str, channels: int) -> tuple[BasicModule, Preprocess]:
    """The net of a run, for images of so many channels, and what its images go through."""
    content = checkpoints.read(checkpoints.find(path))
    if content.get("num_classes") is None or "preprocess" not in content:
        raise UsageError(f"--judge={path} holds no classifier's run: give the folder of one")
    preprocess = Preprocess(**content["preprocess"])
    own = len(preprocess.mean)
    if channels not in (1, own):
        raise UsageError(f"--judge={path} has learned from grey images, and these are in colour: give another one")
    net = models.build(content["model"], content["num_classes"], preprocess.image_size, channels=own)
    checkpoints.load_net(net, content, path)
    return net, preprocess


def frechet(some: torch.Tensor, others: torch.Tensor) -> float:
    """Fréchet distance of two sets of features (N, F), (M, F) (Heusel et al. 2017, arXiv:1706.08500)."""
    as_they_are = nn.Identity()
    as_they_are.num_features = some.shape[1]
    distance = FrechetInceptionDistance(as_they_are)
    distance.update(some, real=True)
    distance.update(others, real=False)
    return distance.compute().item()


def difference(images: torch.Tensor) -> float:
    """Root mean square difference of two images, over all pairs; of (N, S, S, C) uint8."""
    flat = images.flatten(1).double()
    return float(torch.pdist(flat).square().mean().div(flat.shape[1]).sqrt())


def confidence(seen: Features) -> float:
    return seen.probs.max(dim=1).values.mean().item()


def spread(seen: Features) -> float:
    shares = torch.bincount(seen.probs.argmax(dim=1), minlength=seen.probs.shape[1]) / len(seen.probs)
    return float(torch.special.entr(shares).sum()) / math.log(len(shares))
