"""The task of making images: a generator against a discriminator."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from config import Config
from data.image_data import Items
from data.loaders import Batch
from engine.gan_evaluator import GanEvaluator
from engine.recipe import load_optimizer_state, make_ema
from engine.tasks.base import Task, buffers_of, check_finite
from models.basic_module import BasicModule
from utils import pictures
from utils.errors import UsageError
from utils.progress import with_progress

SHOWN, AT_ONCE, WALK = 64, 64, 32  # images of a grid; that go through the generator at once; of a walk

JUDGED = 10_000  # images that a classifier judges


class Gan(Task):
    """Generator and discriminator learn at once, each by its own Adam (book, chapter 7).

    Both losses are taken on the same nets, before either steps: so a step is whole or not at all, and the images that
    the generator makes serve for both.
    """

    def begin(self, items: Items | None) -> None:
        net, opt, device = self.net, self.opt, self.device
        self.steps, self.ema, self.optimizers = 0, None, {}
        if items is not None:
            _ = self.judge  # a wrong one is told before anything is trained
            fused = {"fused": device.device.type in ("cpu", "cuda"), "betas": (opt.beta1, 0.999)}
            self.optimizers = {
                "generator": torch.optim.Adam(net.generator.parameters(), opt.lr1, **fused),
                "discriminator": torch.optim.Adam(net.discriminator.parameters(), opt.lr2, **fused),
            }
            self.ema = make_ema(net.generator, opt)

    @cached_property
    def judge(self) -> GanEvaluator:
        return GanEvaluator(self.opt.judge, self.preprocess, self.device)

    @property
    def generator(self) -> nn.Module:
        """What makes the images: the moving average where there is one."""
        return self.ema.module if self.ema else self.net.generator

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        net, opt = self.net.train(), self.opt
        before = buffers_of(net, opt)
        learns = {"generator": self.steps % opt.g_every == 0, "discriminator": self.steps % opt.d_every == 0}
        real = self._images(batch)
        noise = torch.randn(len(batch), net.nz, 1, 1).to(real.device)
        with self.device.autocast():
            with torch.set_grad_enabled(learns["generator"]):
                fake = net.generator(noise)
            on_real, on_fake = self._score(real), self._score(fake)
        losses = bce(on_real, on_fake)
        for name in ("discriminator", "generator"):
            weights, grads = list(getattr(net, name).parameters()), None
            if learns[name]:
                grads = torch.autograd.grad(losses[name], weights, retain_graph=name == "discriminator")
            for p, grad in zip(weights, grads or [None] * len(weights), strict=True):
                p.grad = grad
        check_finite(losses["discriminator"] + losses["generator"], net, before)
        for name, optimizer in self.optimizers.items():
            if learns[name]:
                optimizer.step()
        if self.ema and learns["generator"]:
            self.ema.update_parameters(net.generator)
        self.steps += 1
        with torch.no_grad():
            means = {"real": on_real.sigmoid().mean(), "fake": on_fake.sigmoid().mean()}
        return {f"{name}_loss": loss.detach() for name, loss in losses.items()} | means

    def _score(self, images: torch.Tensor) -> torch.Tensor:
        """The discriminator's logits (n,) float32, in training."""
        seen = moved(images, self.opt.d_shift) if self.opt.d_shift else images
        return self.net(seen.contiguous(memory_format=self.device.memory_format)).float()

    @staticmethod
    def tutorial_step(net: BasicModule, opt: Config) -> Callable[[torch.Tensor, torch.Tensor], None]:
        """The book's: real images, other generated ones for each net, three backward passes."""
        betas = (opt.beta1, 0.999)
        of_generator = torch.optim.Adam(net.generator.parameters(), opt.lr1, betas)
        of_discriminator = torch.optim.Adam(net.discriminator.parameters(), opt.lr2, betas)

        def loss(images: torch.Tensor, label: float) -> torch.Tensor:
            logits = net(images)
            return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

        def step(images: torch.Tensor, labels: torch.Tensor) -> None:
            noise = (torch.randn(len(images), net.nz, 1, 1, device=images.device) for _ in range(2))
            of_discriminator.zero_grad()
            loss(images, 1).backward()
            loss(net.generator(next(noise)).detach(), 0).backward()
            of_discriminator.step()
            of_generator.zero_grad()
            loss(net.generator(next(noise)), 1).backward()
            of_generator.step()

        return step

    def evaluate(self, batches: Iterable[Batch]) -> dict:
        """Generated images against real ones: as many, or with --judge JUDGED."""
        real = self.judge.look(batch.images for batch in batches)
        count = JUDGED if self.opt.judge else len(real.features)
        figures = self.judge.compare(real, self.judge.look(self.images(count, self.opt.seed)))
        return figures if self.optimizers else figures | self.judge.bounds(real)

    def images(self, count: int, seed: int) -> Iterator[torch.Tensor]:
        """Yields parts of `count` generated images, (n, S, S, C) uint8 on the CPU; the same seed gives the same."""
        for noise in self.noises(count, seed):
            yield as_bytes(self.make(noise))

    def noises(self, count: int, seed: int, mean: float = 0, std: float = 1) -> Iterator[torch.Tensor]:
        """Yields parts of `count` noises (n, nz, 1, 1), on the CPU."""
        rng = torch.Generator().manual_seed(seed)
        for start in range(0, count, AT_ONCE):
            yield torch.randn(min(AT_ONCE, count - start), self.net.nz, 1, 1, generator=rng) * std + mean

    @torch.inference_mode()
    def make(self, noise: torch.Tensor) -> torch.Tensor:
        """(n, nz, 1, 1) -> images (n, C, S, S) in [-1, 1], on the device."""
        with self.device.autocast():
            return self.generator.eval()(noise.to(self.device.device))

    @torch.inference_mode()
    def liked(self, images: torch.Tensor) -> torch.Tensor:
        """The discriminator's logits (n,) of images (n, C, S, S) in [-1, 1], on the CPU."""
        with self.device.autocast():
            return self.net.eval()(images).float().cpu()

    def generate(self) -> list[str]:
        opt = self.opt
        if opt.gen_num > opt.gen_search_num:
            raise UsageError(
                f"--gen-num={opt.gen_num} of --gen-search-num={opt.gen_search_num}: search more, or keep less"
            )
        best = self.best(opt.gen_num, opt.gen_search_num)
        pictures.write(opt.gen_img, pictures.grid(best))
        told = [f"{opt.gen_img}: the best {opt.gen_num} of {opt.gen_search_num}"]
        if opt.gen_folder:
            for number, image in enumerate(best):
                pictures.write(Path(opt.gen_folder, f"{number:04d}.png"), pictures.grid(image[None]))
            told.append(f"{opt.gen_folder}: each of them as a PNG")
        if opt.gen_walk:
            pictures.write_walk(opt.gen_walk, self.walk())
            told.append(f"{opt.gen_walk}: a walk between two noises")
        return told

    def best(self, count: int, of: int) -> np.ndarray:
        """(count, S, S, C) uint8: those of `of` images that the discriminator likes best, the best first."""
        opt = self.opt
        images, scores = None, None
        for noise in with_progress(self.noises(of, opt.seed, opt.gen_mean, opt.gen_std), "generating", of):
            made = self.make(noise)
            liked, made = self.liked(made), as_bytes(made)
            images = made if images is None else torch.cat([images, made])
            scores = liked if scores is None else torch.cat([scores, liked])
            order = scores.argsort(descending=True, stable=True)[:count]
            images, scores = images[order], scores[order]
        return images.numpy()

    def walk(self) -> np.ndarray:
        """(WALK, S, S, C) uint8: from one noise to another on a great circle, at even steps."""
        start, end = next(self.noises(2, self.opt.seed, self.opt.gen_mean, self.opt.gen_std))
        angle = F.cosine_similarity(start.flatten(), end.flatten(), dim=0).clamp(-0.999, 0.999).acos()
        steps = torch.linspace(0, 1, WALK)[:, None, None, None]
        noises = (((1 - steps) * angle).sin() * start + (steps * angle).sin() * end) / angle.sin()
        return as_bytes(self.make(noises)).numpy()

    def _images(self, batch: Batch) -> torch.Tensor:
        """(N, C, S, S) float32 in [-1, 1]."""
        images = batch.to(self.device.device).images.permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(memory_format=self.device.memory_format)

    def pictures(self) -> dict[str, np.ndarray]:
        return {"generated": pictures.grid(torch.cat(list(self.images(SHOWN, self.opt.seed))).numpy())}

    def summary(self, means: dict, figures: dict) -> str:
        losses = "  ".join(f"{name.replace('_', ' ')} {means[name]:.3f}" for name in means)
        return f"{losses}  {self.judge.one_line(figures)}"

    def doubt(self, means: dict, figures: dict, done: float) -> str | None:
        return self.judge.doubt(figures)

    def table(self, figures: dict) -> str:
        return self.judge.table(figures)

    def praise(self, score: float) -> str:
        return f"Fréchet distance {-score:.3g}"

    def next_steps(self, folder: str) -> list[str]:
        return [f"python main.py val --load-path={folder}", f"python main.py generate --load-path={folder}"]

    def lr(self) -> float:
        return float(self.optimizers["generator"].param_groups[0]["lr"])

    def state_dict(self) -> dict:
        state = {"net": self.net.state_dict(), "steps": self.steps}
        state |= {f"{name}_optimizer": optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        if self.ema:  # then `net` holds the average, and this is what learns
            average = {f"generator.{name}": value for name, value in self.ema.module.state_dict().items()}
            learning = self.net.generator.state_dict()
            state |= {"net": state["net"] | average, "learning": learning, "averaged": int(self.ema.n_averaged)}
        return state

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        if self.ema:
            self.ema.module.load_state_dict(self.net.generator.state_dict())
            self.ema.n_averaged.fill_(state.get("averaged", 0))
        if "learning" in state:
            self.net.generator.load_state_dict(state["learning"])
        self.steps = state["steps"]
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, state[f"{name}_optimizer"])


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    """(N, C, S, S) in [-1, 1] -> (N, S, S, C) uint8 on the CPU."""
    pixels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu()


def moved(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Each image (C, S, S) moved by up to so many pixels, with grey where it was; gradients pass.

    DiffAugment's translation (Zhao et al. 2020, arXiv:2006.10738): a discriminator that sees few images learns them by
    heart, and tells the generator nothing. The randomness comes from torch's global generator of the CPU.
    """
    side, padded = images.shape[3], F.pad(images, [pixels] * 4)
    corners = torch.randint(2 * pixels + 1, (len(images), 2)).tolist()
    return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


def bce(real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
    """The book's: cross entropy, and for the generator that of the wrong label (Goodfellow et al. 2014)."""
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    right = F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(fake, zeros)
    return {"discriminator": right, "generator": F.binary_cross_entropy_with_logits(fake, ones)}
