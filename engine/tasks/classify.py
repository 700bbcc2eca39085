"""The task of telling which class an image belongs to."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from data.image_data import Items
from data.loaders import Batch
from engine import metrics
from engine.loss_scale import LossScale
from engine.messages.classify import ClassifyMessages
from engine.optimizers import freeze, freeze_backbone, load_optimizer_state, make_optimizer, needs_closure
from engine.recipe import class_weights, make_ema, make_mixup, mix_shard, resized_side
from engine.schedules import Schedule
from engine.task_state import check_like, check_net
from engine.tasks.base import Buffers, NonFiniteError, Task, buffers_of, check_finite
from engine.whole_batch import whole_batch
from utils import pictures, world
from utils.errors import UsageError

ONE_VIEW = {"flip_test": False, "shift_test": 0}  # options with which an image is judged as it is


class Classify(Task):
    """Cross entropy on the logits of one net."""

    option_groups = ("optimization", "classification")
    monitor = "accuracy"
    several_processes = True
    messages = ClassifyMessages

    def setup(self, items: Items | None) -> None:
        net, opt, device = self.net, self.opt, self.device
        self.metrics = metrics.chosen(opt.metrics)
        if opt.shift_test >= self.preprocess.image_size:
            side = self.preprocess.image_size
            raise UsageError(f"--shift-test={opt.shift_test} is too much for images of {side} pixels a side")
        self.ema, self.side, self.frozen = None, self.preprocess.image_size, []
        self.loss_scale = LossScale() if device.amp is torch.float16 else None
        self.shown: tuple[torch.Tensor, ...] | None = None
        if items is not None:
            weights = class_weights(items) if opt.balance == "loss" else None
            self.loss = nn.CrossEntropyLoss(weights, label_smoothing=opt.label_smoothing).to(device.device)
            self.mixup, self.mixes = make_mixup(opt, len(self.classes)), bool(opt.mixup or opt.cutmix)
            self.frozen = freeze(net, opt.freeze) if opt.freeze else []
            self.frozen = self.frozen if opt.backbone_lr else freeze_backbone(net)
            self.optimizer = make_optimizer(net, opt, device)
            self.steps_several_times = needs_closure(self.optimizer)
            if self.steps_several_times:  # LBFGS strings the gradients together, which takes plain memory
                self.device = replace(device, memory_format=torch.contiguous_format)
                net.to(memory_format=torch.contiguous_format)
            self.lr_schedule = Schedule(self.optimizer, opt.scheduler, opt.lr, opt.lr_decay, opt.warmup)
            self.ema = make_ema(net, opt)

    @property
    def eval_model(self) -> nn.Module:
        """The net that is evaluated and saved as the result: the moving average where there is one."""
        return self.ema.module if self.ema else self.net

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.net.train()
        for module in self.frozen:
            module.eval()
        before = buffers_of(self.net) if self.opt.on_nan == "skip" or self.loss_scale else []
        batch = batch.to(self.device.device)
        images, targets = self._training_images(batch)
        loss, correct = self._finite_backward(batch, images, targets, before)
        if self.opt.clip_grad:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.opt.clip_grad)
        if self.steps_several_times:
            self.optimizer.step(lambda: self._backward(batch, images, targets)[0].item())
        else:
            self.optimizer.step()
        if self.ema:
            self.ema.update_parameters(self.net)
        return {"loss": loss, "accuracy": correct / len(batch)}

    def _training_images(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C, s, s) float32 and their targets, resized and mixed as the options say."""
        images = self._images(batch)
        if self.side < images.shape[3]:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return mix_shard(self.mixup, batch, images) if batch.shard and self.mixes else self.mixup(images, batch.labels)

    def _finite_backward(
        self, batch: Batch, images: torch.Tensor, targets: torch.Tensor, before: Buffers
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`_backward`, again with a lower loss scale where that alone made gradients overflow.

        Raises:
            NonFiniteError: see `check_finite`.
        """
        while True:
            loss, correct = self._backward(batch, images, targets)
            try:
                check_finite(loss, self.net, before)
            except NonFiniteError:
                if self.loss_scale and loss.isfinite() and self.loss_scale.lower():
                    continue
                raise
            if self.loss_scale:
                self.loss_scale.count()
            return loss, correct

    def _backward(self, batch: Batch, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sets the gradients of the batch; returns its loss, and how many images are predicted as their labels say.

        Micro-batches, and the shards of several processes, share the whole batch's denominator, so that they add up to
        its step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, correct = torch.zeros((), device=images.device), torch.zeros((), device=images.device)
        denominator = self._denominator(batch.all_labels if targets.ndim == 1 else targets, len(batch))
        pieces = batch.pieces(self.opt.accumulate)
        for piece in pieces:
            last = self.gradients.on_their_way() if piece is pieces[-1] else nullcontext()
            with whole_batch(piece), last:
                logits, part = self._logits(self.net, images[piece.rows]), targets[piece.rows]
                share = self._denominator(part, len(piece)) / denominator if piece.counts else 0.0
                part_loss = self.loss(logits, part) * share
                (part_loss * self.loss_scale.factor if self.loss_scale else part_loss).backward()
            loss = loss + part_loss.detach()
            if piece.counts:
                correct = correct + (logits.detach().argmax(dim=1) == batch.labels[piece.rows]).sum()
        loss, correct = self.gradients.add_up(loss, correct)
        if self.loss_scale:
            self.loss_scale.unscale(self.net)
        return loss, correct

    def _denominator(self, targets: torch.Tensor, count: int) -> float | torch.Tensor:
        """What the mean of the loss divides by: of class indices (N,) the sum of their weights, else their count."""
        weights = self.loss.weight
        return count if weights is None or targets.ndim > 1 else weights[targets].sum()

    def preview(self, batch: Batch) -> torch.Tensor:
        images = self._training_images(batch.to(self.device.device))[0]
        return self.preprocess.denormalize(images).cpu()

    def predict(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
        net = self.eval_model.eval()
        with torch.inference_mode():
            for batch in batches:
                images = self._images(batch.to(self.device.device))
                logits = torch.stack([self._logits(net, view) for view in self._views(images)]).mean(dim=0).cpu()
                if not logits.isfinite().all():
                    raise NonFiniteError("the net's output")
                yield batch, logits

    def _views(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The images, and what of them is asked for: moved both ways, with the border reflected, and all mirrored."""
        views, pixels = [images], self.opt.shift_test
        if pixels and self.final:
            wide = F.pad(images, [pixels] * 4, mode="reflect")
            views += [wide[:, :, 2 * pixels :, 2 * pixels :], wide[:, :, : -2 * pixels, : -2 * pixels]]
        return [*views, *(view.flip(3) for view in views)] if self.opt.flip_test else views

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        logits: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        positions: list[torch.Tensor] = []
        images = None
        for batch, batch_logits in self.predict(batches):
            images = batch.images[batch.counting] if images is None else images
            logits.append(batch_logits[batch.counting])
            labels.append(batch.labels[batch.counting])
            positions.append(batch.positions)
        all_logits, all_labels = world.gathered(logits, positions), world.gathered(labels, positions)
        if images is not None:
            images = world.gathered([images], positions[:1])
            self.shown = images, all_labels[: len(images)], all_logits[: len(images)]
        return world.same(metrics.compute(all_logits, all_labels, self.metrics))

    def metric_modes(self) -> dict[str, str]:
        return {
            name: m.mode for name, m in self.metrics.items() if m.mode and (name != "top5" or len(self.classes) > 5)
        }

    def samples(self) -> dict[str, np.ndarray]:
        if self.shown is None:
            return {}
        images, labels, logits = self.shown
        return {"predictions": pictures.predictions(images.cpu().numpy(), labels, logits, self.classes)}

    def set_progress(self, progress: float) -> None:
        self.lr_schedule.lr = self.opt.lr  # may have been changed in the debugger
        self.lr_schedule.set(progress)
        side = self.preprocess.image_size
        self.side = resized_side(side) if progress < self.opt.progressive_resizing else side

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        self.lr_schedule.end_epoch(metrics["loss"])

    def warming_up(self, progress: float) -> bool:
        return self.lr_schedule.warming_up(progress)

    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "net": self.eval_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_schedule.state_dict(),
        }
        if self.loss_scale:
            state["loss_scale"] = self.loss_scale.state_dict()
        if self.ema:  # then `net` is the average, and this is what learns
            state |= {"learning_net": self.net.state_dict(), "ema_updates": int(self.ema.n_averaged)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        schedule = {"previous_loss": 0.0, "factor": 1.0, "ratios": [1.0]}
        like = {"optimizer": {}, "scheduler": schedule, "ema_updates": 0, "loss_scale": LossScale().state_dict()}
        check_like(state, like, "task", optional=("ratios", "ema_updates", "loss_scale"))
        load_optimizer_state(self.optimizer, state["optimizer"], saved=("lr",))
        if "learning_net" in state:
            check_net(state["learning_net"], self.net, "task.learning_net")
        self.net.load_state_dict(state.get("learning_net", state["net"]))
        if self.ema:
            self.ema.module.load_state_dict(state["net"])
            self.ema.n_averaged.fill_(state.get("ema_updates", 0))
        self.lr_schedule.load_state_dict(state["scheduler"])
        if self.loss_scale and "loss_scale" in state:
            self.loss_scale.load_state_dict(state["loss_scale"])

    def _images(self, batch: Batch) -> torch.Tensor:
        """(N, C, S, S) float32, normalized; `batch` lies on the device. Grey images repeat for a net of 3 channels."""
        images = self.preprocess.normalize(batch.images)
        return images.expand(-1, self.net.in_channels, -1, -1) if images.shape[1] == 1 else images

    def _logits(self, net: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """(N, K) float32."""
        with self.device.autocast():
            logits = net(images.contiguous(memory_format=self.device.memory_format))
        return logits.float()
