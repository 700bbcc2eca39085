"""The task of making images: a generator against a discriminator."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from data.image_data import Items
from data.loaders import Batch
from data.shard import Shard
from engine.gan_evaluator import Features, GanEvaluator
from engine.messages.gan import GanMessages
from engine.optimizers import freeze, load_optimizer_state
from engine.recipe import make_ema
from engine.task_state import check_like, check_net
from engine.tasks.base import NonFiniteError, Task, buffers_of, check_finite
from engine.whole_batch import whole_batch
from utils import pictures, registry, world
from utils.errors import UsageError
from utils.progress import with_progress

SHOWN, AT_ONCE, FRAMES = 64, 64, 32  # images of a grid; that go through the generator at once; of an interpolation
EVALUATED = 10_000  # generated images that are compared by the features of a classifier
R1_EVERY = 2  # steps between two penalties on the discriminator's gradient (Karras et al. 2020, arXiv:1912.04958)


class Gan(Task):
    """Generator and discriminator learn at the same time, each by its own Adam (book, chapter 7).

    Both losses are computed on the same nets, before either steps: so a step is whole or not at all, and the generated
    images serve for both.
    """

    option_groups = ("gan",)
    monitor = "distance"
    several_processes = True
    messages = GanMessages

    def setup(self, items: Items | None) -> None:
        if self.device.amp is torch.float16:  # without a scale of the loss its gradients would vanish
            self.device = replace(self.device, amp=None)
        net, opt, device = self.net, self.opt, self.device
        self.steps, self.ema, self.frozen = 0, None, []
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.conditional = getattr(net, "conditional", False)
        if items is not None:
            _ = self.evaluator  # refuses a wrong --judge before the training
            norms = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in net.discriminator.modules())
            if opt.r1 and norms and world.now.size > 1:
                raise UsageError(
                    f"--r1 is for one process where the discriminator has batch norm, as that of {opt.model}: leave "
                    "it out, or train with one process"
                )
            self.frozen = freeze(net, opt.freeze) if opt.freeze else []
            for name, lr in (("generator", opt.lr1), ("discriminator", opt.lr2)):
                weights, fused = getattr(net, name).parameters(), device.device.type in ("cpu", "cuda")
                self.optimizers[name] = torch.optim.Adam(weights, lr, betas=(opt.beta1, 0.999), fused=fused)
            self.ema = make_ema(net.generator, opt)

    @cached_property
    def evaluator(self) -> GanEvaluator:
        return GanEvaluator(self.opt.judge, self.preprocess, self.device)

    @property
    def eval_generator(self) -> nn.Module:
        """The generator that is evaluated and used: the moving average where there is one."""
        return self.ema.module if self.ema else self.net.generator

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        net, opt = self.net.train(), self.opt
        for module in self.frozen:
            module.eval()
        before = buffers_of(net) if opt.on_nan == "skip" else []
        steps = {"generator": self.steps % opt.g_every == 0, "discriminator": self.steps % opt.d_every == 0}
        real, piece = self._images(batch), batch.pieces()[0]
        labels = batch.labels.to(real.device) if self.conditional else None
        penalized = bool(opt.r1) and steps["discriminator"] and self.steps % R1_EVERY == 0
        with self.device.autocast(), whole_batch(piece):
            latents = self._with_class(torch.randn(len(real), net.nz, 1, 1).to(real.device), labels)
            with torch.set_grad_enabled(steps["generator"]):
                fake = net.generator(latents)
            on_real = self._discriminate(real.requires_grad_(penalized), labels)
            on_fake = self._discriminate(fake, labels)
        losses = {name: loss * piece.weight for name, loss in bce(on_real, on_fake).items()}
        penalty = r1_penalty(on_real, real) * (opt.r1 * R1_EVERY * piece.weight) if penalized else 0
        self._set_gradients(losses | {"discriminator": losses["discriminator"] + penalty}, steps)
        with torch.no_grad():
            means = {"real": on_real.sigmoid().mean(), "fake": on_fake.sigmoid().mean()}
        values = {f"{name}_loss": loss.detach() for name, loss in losses.items()}
        values |= {name: mean * piece.weight for name, mean in means.items()}
        values = dict(zip(values, self.gradients.add_up(*values.values()), strict=True))
        check_finite(values["discriminator_loss"] + values["generator_loss"], net, before)
        for name, optimizer in self.optimizers.items():
            if steps[name]:
                optimizer.step()
        if self.ema and steps["generator"]:
            self.ema.update_parameters(net.generator)
        self.steps += 1
        return values

    def _set_gradients(self, losses: dict[str, torch.Tensor], steps: dict[str, bool]) -> None:
        """Gives each net the gradient of its own loss, where it steps; else none."""
        for name in ("discriminator", "generator"):
            weights = list(getattr(self.net, name).parameters())
            learning = [p for p in weights if p.requires_grad]
            for p in weights:
                p.grad = None
            if steps[name] and learning:
                grads = torch.autograd.grad(losses[name], learning, retain_graph=name == "discriminator")
                for p, grad in zip(learning, grads, strict=True):  # in the layout of p: Adam's fused step wants it so
                    p.grad = grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)

    def _discriminate(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The discriminator's logits (n,) float32, in training."""
        seen = random_translate(images, self.opt.d_shift) if self.opt.d_shift else images
        return self._logits(seen.contiguous(memory_format=self.device.memory_format), labels).float()

    def _logits(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return self.net(images) if labels is None else self.net(images, labels)

    def _with_class(self, noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Latents (n, latent_size, 1, 1): noise (n, nz, 1, 1), and the class as a one-hot code where there is one."""
        if labels is None:
            return noise
        code = F.one_hot(labels, len(self.classes)).to(noise.dtype)
        return torch.cat([noise, code[:, :, None, None]], dim=1)

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Generated images against real ones: as many, or with --judge EVALUATED."""
        shards: list[Shard | None] = []

        def images() -> Iterator[torch.Tensor]:
            for batch in batches:
                shards.append(batch.shard)
                yield batch.images

        real = self.evaluator.extract_features(images()).gathered(shards)
        generated = self._generated(EVALUATED if self.opt.judge else len(real.features))
        metrics = self.evaluator.compare(real, generated)
        return world.same(metrics if self.optimizers else metrics | self.evaluator.reference_distances(real))

    def _generated(self, count: int) -> Features:
        """The features of so many generated images, of which each process makes its part."""
        if world.now.size == 1:
            return self.evaluator.extract_features(self.images(count, self.opt.seed))
        parts = list(self.latents(count, self.opt.seed))
        shards = [Shard.of(len(part), 1, world.now.rank, world.now.size) for part in parts]
        shards = [shard.at(AT_ONCE * number, ()) for number, shard in enumerate(shards)]
        own = (as_bytes(self.sample(part[list(shard.places)])) for part, shard in zip(parts, shards, strict=True))
        return self.evaluator.extract_features(own).gathered(list(shards))

    def metric_modes(self) -> dict[str, str]:
        return self.evaluator.metric_modes()

    def images(self, count: int, seed: int) -> Iterator[torch.Tensor]:
        """Yields parts of `count` generated images, (n, S, S, C) uint8 on the CPU; the same seed gives the same."""
        for latents in self.latents(count, seed):
            yield as_bytes(self.sample(latents))

    def latents(self, count: int, seed: int, mean: float = 0, std: float = 1) -> Iterator[torch.Tensor]:
        """Yields parts of `count` latents (n, latent_size, 1, 1), on the CPU; their classes are drawn evenly, or
        that of `--class`.

        Raises:
            UsageError: there is no such class, or the net does not know classes.
        """
        rng, asked = torch.Generator().manual_seed(seed), self._class()
        for start in range(0, count, AT_ONCE):
            size, labels = min(AT_ONCE, count - start), None
            noise = torch.randn(size, self.net.nz, 1, 1, generator=rng) * std + mean
            if self.conditional:
                labels = torch.randint(len(self.classes), (size,), generator=rng)
                labels = labels if asked is None else torch.full_like(labels, asked)
            yield self._with_class(noise, labels)

    def _class(self) -> int | None:
        """The number of the class that `--class` asks for."""
        asked = self.opt.class_
        if asked is None:
            return None
        if not self.conditional:
            raise UsageError(
                f"--class={asked}: {self.opt.model} has learned without classes; train it with --conditional"
            )
        return self.classes.index(registry.find(asked, self.classes, "class"))

    @torch.inference_mode()
    def sample(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, latent_size, 1, 1) -> images (n, C, S, S) in [-1, 1], on the device.

        Raises:
            NonFiniteError: the generator gives NaN.
        """
        with self.device.autocast():
            images = self.eval_generator.eval()(latents.to(self.device.device))
        if not images.isfinite().all():
            raise NonFiniteError("the generator's output")
        return images

    @torch.inference_mode()
    def discriminator_scores(self, images: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The discriminator's logits (n,) of images (n, C, S, S) in [-1, 1] made from these latents, on the CPU."""
        labels = latents[:, self.net.nz :, 0, 0].argmax(dim=1).to(images.device) if self.conditional else None
        self.net.eval()
        with self.device.autocast():
            return self._logits(images, labels).float().cpu()

    def generate(self) -> list[str]:
        opt = self.opt
        if opt.gen_num > opt.gen_search_num:
            raise UsageError(
                f"--gen-num={opt.gen_num} of --gen-search-num={opt.gen_search_num}: search more, or keep less"
            )
        best = self.top_k(opt.gen_num, opt.gen_search_num)
        pictures.write(opt.gen_img, pictures.grid(best))
        lines = [f"{opt.gen_img}: the best {opt.gen_num} of {opt.gen_search_num}"]
        if opt.gen_folder:
            Path(opt.gen_folder).mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(best):
                pictures.write(Path(opt.gen_folder, f"{number:04d}.png"), pictures.grid(image[None]))
            lines.append(f"{opt.gen_folder}: each of them as a PNG")
        if opt.gen_walk:
            pictures.write_sequence(opt.gen_walk, self.interpolate())
            lines.append(f"{opt.gen_walk}: an interpolation between two latents")
        return lines

    def top_k(self, count: int, of: int) -> np.ndarray:
        """(count, S, S, C) uint8: those of `of` images with the highest scores of the discriminator, the best first."""
        opt = self.opt
        images: list[torch.Tensor] = []
        scores: list[torch.Tensor] = []
        for latents in with_progress(self.latents(of, opt.seed, opt.gen_mean, opt.gen_std), "generating", of):
            generated = self.sample(latents)
            all_scores = torch.cat([*scores, self.discriminator_scores(generated, latents)])
            order = all_scores.argsort(descending=True, stable=True)[:count]
            images, scores = [torch.cat([*images, as_bytes(generated)])[order]], [all_scores[order]]
        return images[0].numpy()

    def interpolate(self) -> np.ndarray:
        """(FRAMES, S, S, C) uint8: from one latent to another on a great circle, at even steps."""
        (start, end), nz = next(self.latents(2, self.opt.seed, self.opt.gen_mean, self.opt.gen_std)), self.net.nz
        (start, code), end = start.split([nz, len(start) - nz]), end[:nz]  # of one class
        angle = F.cosine_similarity(start.flatten(), end.flatten(), dim=0).clamp(-0.999, 0.999).acos()
        steps = torch.linspace(0, 1, FRAMES)[:, None, None, None]
        latents = (((1 - steps) * angle).sin() * start + (steps * angle).sin() * end) / angle.sin()
        return as_bytes(self.sample(torch.cat([latents, code.expand(FRAMES, -1, 1, 1)], dim=1))).numpy()

    def _images(self, batch: Batch) -> torch.Tensor:
        """(N, C, S, S) float32 in [-1, 1]."""
        images = batch.to(self.device.device).images.permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(memory_format=self.device.memory_format)

    def samples(self) -> dict[str, np.ndarray]:
        return {"generated": pictures.grid(torch.cat(list(self.images(SHOWN, self.opt.seed))).numpy())}

    def lr(self) -> float:
        return float(self.optimizers["generator"].param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"net": self.net.state_dict(), "steps": self.steps}
        state |= {f"{name}_optimizer": optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        if self.ema:  # then `net` holds the average, and this is what learns
            average = {f"generator.{name}": value for name, value in self.ema.module.state_dict().items()}
            state |= {"net": state["net"] | average, "learning_generator": self.net.generator.state_dict()}
            state["ema_updates"] = int(self.ema.n_averaged)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        names = {name: f"{name}_optimizer" for name in self.optimizers}
        like = {"steps": 0, "ema_updates": 0, **{name: {} for name in names.values()}}
        check_like(state, like, "task", optional=("ema_updates",))
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, state[names[name]], place=f"task.{names[name]}")
        self.net.load_state_dict(state["net"])
        if self.ema:
            self.ema.module.load_state_dict(self.net.generator.state_dict())
            self.ema.n_averaged.fill_(state.get("ema_updates", 0))
        if "learning_generator" in state:
            check_net(state["learning_generator"], self.net.generator, "task.learning_generator")
            self.net.generator.load_state_dict(state["learning_generator"])
        self.steps = state["steps"]


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    """(N, C, S, S) in [-1, 1] -> (N, S, S, C) uint8 on the CPU."""
    pixels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu()


def random_translate(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Moves each image (C, S, S) by up to so many pixels, with grey where it was; gradients pass.

    DiffAugment's translation (Zhao et al. 2020, arXiv:2006.10738): a discriminator that sees few images learns them by
    heart, and tells the generator nothing. The randomness comes from torch's global generator of the CPU.
    """
    side, padded = images.shape[3], F.pad(images, [pixels] * 4)
    corners = torch.randint(2 * pixels + 1, (len(images), 2)).tolist()
    return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


def r1_penalty(logits: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Half the mean squared gradient of the discriminator's logits (n,) at real images (Mescheder et al. 2018,
    arXiv:1801.04406), as a scalar that can be differentiated."""
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return slope.square().flatten(1).sum(dim=1).mean() / 2


def latent_size(net: Any) -> int:
    """The length of what a generator takes: of ours noise, and the class where it knows it; of others noise."""
    return getattr(net, "latent_size", net.nz)


def bce(real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
    """The book's: cross entropy, and for the generator that of the wrong label (Goodfellow et al. 2014)."""
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    right = F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(fake, zeros)
    return {"discriminator": right, "generator": F.binary_cross_entropy_with_logits(fake, ones)}
