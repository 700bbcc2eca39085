"""The task of telling which class an image belongs to."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from config import Config
from data.loaders import Batch
from data.transforms import Preprocess
from engine.device import Device
from engine.schedule import Schedule
from engine.task import NotFinite, Task, check_finite
from utils import metrics, pictures


class Classify(Task):
    """Cross entropy on the logits of one net. Where it is not to learn, it has no optimizer."""

    def __init__(
        self, net: nn.Module, classes: list[str], preprocess: Preprocess, device: Device, opt: Config, learn: bool
    ) -> None:
        self.device, self.preprocess, self.classes = device, preprocess, classes
        self.net = net.to(device.device, memory_format=device.memory_format)
        self.may_skip = opt.on_nan == "skip"
        if learn:
            extra = {"momentum": 0.9, "nesterov": True} if opt.optimizer == "SGD" else {}
            fused = device.device.type in ("cpu", "cuda")  # one pass over the weights, not several
            self.optimizer = net.get_optimizer(opt.lr, opt.weight_decay, opt.optimizer, fused=fused, **extra)
            self.lr_schedule = Schedule(self.optimizer, opt.scheduler, opt.lr, opt.lr_decay)

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.net.train()
        buffers = [(b, b.clone()) for b in self.net.buffers()] if self.may_skip else []  # BatchNorm's statistics
        batch = batch.to(self.device.device)
        logits = self._logits(batch)
        loss = F.cross_entropy(logits, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        try:
            check_finite(loss, self.net)
        except NotFinite:
            for buffer, before in buffers:
                buffer.copy_(before)
            raise
        self.optimizer.step()
        accuracy = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy}

    def predict(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Yields each batch with its logits, (N, K) float32 on the CPU; one batch in memory at a time."""
        self.net.eval()
        with torch.inference_mode():
            for batch in batches:
                yield batch, self._logits(batch.to(self.device.device)).cpu()

    def evaluate(self, batches: Iterable[Batch]) -> dict:
        labels, logits, self.shown = [], [], None
        for batch, batch_logits in self.predict(batches):
            self.shown = self.shown or (batch, batch_logits)
            labels.append(batch.labels)
            logits.append(batch_logits)
        return metrics.classification(torch.cat(logits), torch.cat(labels))

    def pictures(self) -> dict[str, np.ndarray]:
        batch, logits = self.shown
        return {"predictions": pictures.predictions(batch.images.numpy(), batch.labels, logits, self.classes)}

    def schedule(self, done: float) -> None:
        self.lr_schedule.set(done)

    def end_epoch(self, figures: dict) -> None:
        self.lr_schedule.end_epoch(figures["loss"])

    def doubt(self, means: dict, figures: dict, done: float) -> str | None:
        chance, confusion = math.log(len(self.classes)), torch.tensor(figures["confusion"])
        predicted = [name for name, count in zip(self.classes, confusion.sum(dim=0), strict=True) if count]
        if self.lr_schedule.rises(done):
            return None
        if len(predicted) == 1:
            sign = f"all {int(confusion.sum())} validation images are taken for {predicted[0]}"
        elif abs(means["loss"] / chance - 1) < 0.02 and figures["accuracy"] < metrics.better_than_chance(confusion):
            sign = f"train loss {means['loss']:.4f}, and guessing among {len(self.classes)} classes gives {chance:.4f}"
        else:
            return None
        return (
            f"the net does not learn yet: {sign}. The usual causes: a learning rate that is too high or too low "
            f"(now {self.lr():.3g}: try a tenth and ten times that), labels that do not belong to the images "
            "(`python main.py check`), or simply too few epochs so far"
        )

    def summary(self, means: dict, figures: dict) -> str:
        return f"train loss {means['loss']:.4f}  {metrics.one_line(figures)}"

    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict:
        parts = {"net": self.net, "optimizer": self.optimizer, "scheduler": self.lr_schedule}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict) -> None:
        chosen = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in self.optimizer.param_groups]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group, options in zip(self.optimizer.param_groups, chosen, strict=True):
            group.update(options)
        self.lr_schedule.load_state_dict(state["scheduler"])

    def _logits(self, batch: Batch) -> torch.Tensor:
        """(N, K) float32; `batch` lies on the device."""
        images = self.preprocess.normalize(batch.images).contiguous(memory_format=self.device.memory_format)
        with self.device.autocast():
            logits = self.net(images)
        return logits.float()
