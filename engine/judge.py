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
from utils import checkpoint

PAIRED = 256  # images of each kind whose distances are taken
COLLAPSED = 0.5  # of the real images' mean distance


@dataclass
class Seen:
    """What a judge saw: features (N, F), probabilities (N, K), and some of the images (n, S, S, C) uint8."""

    features: torch.Tensor
    probs: torch.Tensor
    some: torch.Tensor


class Features(nn.Module):
    """What goes into a classifier's last linear layer: (N, C, S, S) normalized -> (N, num_features)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
        self.num_features = last.in_features
        last.register_forward_pre_hook(lambda module, inputs: setattr(self, "seen", inputs[0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.logits = self.net(images)
        return self.seen.flatten(1).float()


class Judge:
    """Compares generated images with real ones by a net's features.

    Args:
        path: a run of a classifier; None: a CifarNet of fixed random weights looks at them at 32 x 32.
        preprocess: of the images.
    """

    def __init__(self, path: str | None, preprocess: Preprocess, device: Device) -> None:
        self.device, self.path, channels = device, path, len(preprocess.mean)
        if path is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net = models.build("CifarNet", 10, 32, channels=channels)
            self.preprocess = Preprocess(32, 1.0, preprocess.mean, preprocess.std)
        else:
            content = checkpoint.read(checkpoint.find(path))
            self.preprocess = Preprocess(**content["preprocess"])
            net = models.build(
                content["model"],
                content["num_classes"],
                self.preprocess.image_size,
                channels=len(self.preprocess.mean),
            )
            checkpoint.load_net(net, content, path)
        self.features = Features(net.eval().to(device.device, memory_format=device.memory_format))

    @torch.inference_mode()
    def look(self, parts: Iterable[torch.Tensor]) -> Seen:
        """Looks at images that come in parts (n, S, S, C) uint8."""
        features, probs, some = [], [], []
        for images in parts:
            x = self.preprocess.normalize(images.to(self.device.device))
            x = x.expand(-1, self.features.net.in_channels, -1, -1) if x.shape[1] == 1 else x
            side = self.preprocess.image_size
            if x.shape[3] != side:
                x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
            features.append(self.features(x).cpu())
            probs.append(self.features.logits.float().softmax(dim=1).cpu())
            if sum(map(len, some)) < PAIRED:
                some.append(images.cpu())
        return Seen(torch.cat(features), torch.cat(probs), torch.cat(some)[:PAIRED])

    def compare(self, real: Seen, made: Seen) -> dict:
        """The figures of generated images.

        distance: Fréchet, of the features. variety: the mean difference of two of them, by that of two real ones.
        With a classifier also confidence, the mean probability of the likeliest class, and spread, the entropy of the
        classes that it sees, from 0 (all of one) to 1 (all as often); and those of the real images.
        """
        distance = frechet(real.features, made.features)
        figures = {"distance": distance, "variety": difference(made.some) / difference(real.some), "score": -distance}
        if self.path:
            figures |= {"confidence": confidence(made), "spread": spread(made)}
            figures |= {"real_confidence": confidence(real), "real_spread": spread(real)}
        return figures

    def bounds(self, real: Seen) -> dict:
        """What to hold a distance against: that of one half of the real images to the other, and that of noise."""
        half = len(real.features) // 2
        noise = torch.randint(0, 256, real.some.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        seen = self.look(noise.split(64))
        return {
            "distance_of_real": frechet(real.features[:half], real.features[half:]),
            "distance_of_noise": frechet(real.features, seen.features),
        }

    def one_line(self, figures: dict) -> str:
        return f"Fréchet distance {figures['distance']:.3f}  variety {figures['variety']:.2f}"

    def doubt(self, figures: dict) -> str | None:
        if figures["variety"] >= COLLAPSED:
            return None
        return (
            f"the generator has collapsed: two of its images differ {figures['variety']:.2f} times as much as two "
            "real ones. The usual remedies: a lower --lr2, --ema=0.99, a larger --batch-size"
        )

    def table(self, figures: dict) -> str:
        lines = [f"{name.replace('_', ' '):<18} {value:.4f}" for name, value in figures.items() if name != "score"]
        return "\n".join([*lines, *filter(None, [self.doubt(figures)])])


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


def confidence(seen: Seen) -> float:
    return seen.probs.max(dim=1).values.mean().item()


def spread(seen: Seen) -> float:
    shares = torch.bincount(seen.probs.argmax(dim=1), minlength=seen.probs.shape[1]) / len(seen.probs)
    return float(torch.special.entr(shares).sum()) / math.log(len(shares))
