"""How good generated images are: how far their features lie from those of real ones, and how varied they are."""

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

    def begin(self) -> None:
        self.distance = FrechetInceptionDistance(self.features).to(self.device.device)
        self.pixels, self.logits = {True: [], False: []}, {True: [], False: []}

    @torch.inference_mode()
    def add(self, images: torch.Tensor, real: bool) -> None:
        """(N, S, S, C) uint8."""
        side = self.preprocess.image_size
        x = self.preprocess.normalize(images.to(self.device.device))
        if x.shape[1] == 1:
            x = x.expand(-1, self.features.net.in_channels, -1, -1)
        if x.shape[3] != side:
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        self.distance.update(x, real=real)
        if sum(map(len, self.pixels[real])) < PAIRED:
            self.pixels[real].append(images.cpu())
        if self.path:
            self.logits[real].append(self.features.logits.float().cpu())

    def figures(self) -> dict:
        """distance: Fréchet, of the features. variety: the mean distance of two generated images, by that of two real
        ones. With a classifier: confidence, the mean probability of the likeliest class, and spread, the entropy of
        the classes that are seen, from 0 (one class) to 1 (all alike).
        """
        distance = self.distance.compute().item()
        apart = {real: mean_distance(torch.cat(parts)[:PAIRED]) for real, parts in self.pixels.items()}
        figures = {"distance": distance, "variety": apart[False] / apart[True], "score": -distance}
        for real, parts in self.logits.items() if self.path else ():
            probs = torch.cat(parts).softmax(dim=1)
            name = "real_" if real else ""
            figures[f"{name}confidence"] = probs.max(dim=1).values.mean().item()
            figures[f"{name}spread"] = spread(probs)
        return figures

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


def mean_distance(images: torch.Tensor) -> float:
    """Root mean square difference of two images, over all pairs; of (N, S, S, C) uint8."""
    flat = images.flatten(1).double()
    return float(torch.pdist(flat).square().mean().div(flat.shape[1]).sqrt())


def spread(probs: torch.Tensor) -> float:
    shares = torch.bincount(probs.argmax(dim=1), minlength=probs.shape[1]) / len(probs)
    return float(torch.special.entr(shares).sum() / torch.tensor(float(len(shares))).log())
