"""How good generated images are: how far their features lie from those of real ones, and how varied they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

import models
from data.shard import Shard
from data.transforms import Preprocess
from engine.device import Device
from utils import checkpoints, registry, state_dicts, world
from utils.errors import UsageError

PAIRED = 256  # images of each kind between which differences are taken


@dataclass
class Features:
    """Of a set of images: features (N, F), probabilities (N, K), and some of the images (n, S, S, C) uint8."""

    features: torch.Tensor
    probs: torch.Tensor
    some: torch.Tensor

    def gathered(self, shards: list[Shard | None]) -> "Features":
        """Those of the images of all processes; `shards` are of the parts that these features are of."""
        if not shards or shards[0] is None:
            return self
        counting = torch.cat([shard.counting for shard in shards if shard])
        positions = torch.cat([shard.positions for shard in shards if shard])
        some = self.some[counting[: len(self.some)]]
        all_features, all_probs, all_some = (
            world.gathered([rows], [positions[: len(rows)]])
            for rows in (self.features[counting], self.probs[counting], some)
        )
        return Features(all_features, all_probs, all_some[:PAIRED])


class GanEvaluator:
    """Compares generated images with real ones by a net's features: the input of its last linear layer.

    Args:
        path: a run of a classifier; None: a CifarNet of fixed random weights sees them at 32 x 32.
        preprocess: of the images.

    Raises:
        UsageError: no such run, or not of a classifier that takes such images.
    """

    def __init__(self, path: str | None, preprocess: Preprocess, device: Device) -> None:
        self.device, self.path, channels = device, path, len(preprocess.mean)
        if path is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net, name = models.build("CifarNet", 10, 32, channels=channels), "CifarNet"
            self.preprocess = Preprocess(32, 1.0, preprocess.mean, preprocess.std)
        else:
            net, name, self.preprocess = load_classifier(path, channels)
        self.net: Any = net.eval().to(device.device, memory_format=device.memory_format)  # type: ignore[call-overload]
        linear = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UsageError(f"--judge={path} holds {name}, which has no linear layer to take features from")
        linear[-1].register_forward_pre_hook(lambda layer, inputs: setattr(self, "features", inputs[0]))
        self.features = torch.empty(0)

    @torch.inference_mode()
    def extract_features(self, parts: Iterable[torch.Tensor]) -> Features:
        """Runs images through the net that come in parts (n, S, S, C) uint8."""
        features: list[torch.Tensor] = []
        probs: list[torch.Tensor] = []
        some: list[torch.Tensor] = []
        channels, side = len(self.preprocess.mean), self.preprocess.image_size
        for images in parts:
            x = self.preprocess.normalize(images.to(self.device.device).expand(-1, -1, -1, channels))
            if x.shape[3] != side:
                x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
            logits = self.net(x.expand(-1, self.net.in_channels, -1, -1))  # a net of 3 may have learned from grey
            features.append(self.features.flatten(1).float().cpu())
            probs.append(logits.float().softmax(dim=1).cpu())
            if sum(len(part) for part in some) < PAIRED:
                some.append(images.cpu())
        return Features(torch.cat(features), torch.cat(probs), torch.cat(some)[:PAIRED])

    def compare(self, real: Features, generated: Features) -> dict[str, float]:
        """The metrics of generated images.

        distance: Fréchet, of the features. variety: the mean difference of two of them, by that of two real ones.
        With a classifier also confidence, the mean probability of the likeliest class, and spread, the entropy of the
        predicted classes, from 0 (all of one) to 1 (all equally often); and those of the real images.
        """
        metrics = {
            "distance": frechet(real.features, generated.features),
            "variety": difference(generated.some) / max(difference(real.some), 1e-9),
        }
        if self.path:
            metrics |= {"confidence": confidence(generated), "spread": spread(generated)}
            metrics |= {"real_confidence": confidence(real), "real_spread": spread(real)}
        return metrics

    def metric_modes(self) -> dict[str, str]:
        """Whether more or less of a metric is better."""
        own = {"confidence": "max", "spread": "max"} if self.path else {}
        return {"distance": "min", "variety": "max"} | own

    def reference_distances(self, real: Features) -> dict[str, float]:
        """To compare a distance with: that of one half of the real images to the other, and that of noise."""
        half = len(real.features) // 2
        rng = torch.Generator().manual_seed(0)
        sizes = [len(part) for part in real.features.split(64)]
        noise = self.extract_features(
            torch.randint(0, 256, (n, *real.some.shape[1:]), dtype=torch.uint8, generator=rng) for n in sizes
        )
        halves = {"distance_of_real": frechet(real.features[:half], real.features[half:])} if half > 1 else {}
        return halves | {"distance_of_noise": frechet(real.features, noise.features)}


def load_classifier(path: str, channels: int) -> tuple[nn.Module, str, Preprocess]:
    """The net of a run, for images of so many channels, its name, and what its images go through."""
    file = checkpoints.find(path)
    checkpoint = checkpoints.read(file)
    metadata = checkpoint["metadata"]
    if metadata.get("task") != "Classify":
        raise UsageError(f"--judge={path} is not the run of a classifier: give the folder of one")
    name = metadata["model"]
    if registry.is_external(name) and not registry.given(name):
        raise UsageError(f"--judge={path} holds {name}, code outside of this program: give a run of another model")
    preprocess = Preprocess(**metadata["preprocess"])
    own = len(preprocess.mean)
    if channels not in (1, own):
        raise UsageError(f"--judge={path} has learned from grey images, and these are in colour: give another run")
    arguments = metadata.get("model_args", {})
    net = models.build(name, metadata["num_classes"], preprocess.image_size, own, arguments)
    state_dicts.load_net(net, checkpoint, file, name)
    return net, name, preprocess


def frechet(some: torch.Tensor, others: torch.Tensor) -> float:
    """Fréchet distance of two sets of features (N, F), (M, F) (Heusel et al. 2017, arXiv:1706.08500)."""
    identity: Any = nn.Identity()  # they are features already
    identity.num_features = some.shape[1]
    distance = FrechetInceptionDistance(identity, sync_on_compute=False)
    distance.update(some, real=True)
    distance.update(others, real=False)
    return distance.compute().item()


def difference(images: torch.Tensor) -> float:
    """Root mean square difference of two images, over all pairs; of (N, S, S, C) uint8."""
    flat = images.flatten(1).double()
    return float(torch.pdist(flat).square().mean().div(flat.shape[1]).sqrt())


def confidence(features: Features) -> float:
    return features.probs.max(dim=1).values.mean().item()


def spread(features: Features) -> float:
    counts = torch.bincount(features.probs.argmax(dim=1), minlength=features.probs.shape[1])
    frequencies = counts / len(features.probs)
    return float(torch.special.entr(frequencies).sum()) / math.log(len(frequencies))
