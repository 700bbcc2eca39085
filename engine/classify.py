"""The task of telling which class an image belongs to."""

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
from engine.task import Task
from utils import metrics, pictures


class Classify(Task):
    """Cross entropy on the logits of one net. Without `steps` it only judges, and has no optimizer."""

    def __init__(
        self, net: nn.Module, classes: list[str], preprocess: Preprocess, device: Device, opt: Config, steps: int = 0
    ) -> None:
        """steps: training steps in all, over which the learning rate falls."""
        self.device, self.preprocess, self.classes = device, preprocess, classes
        self.net = net.to(device.device, memory_format=device.memory_format)
        if steps:
            extra = {"momentum": 0.9, "nesterov": True} if opt.optimizer == "SGD" else {}
            fused = device.device.type in ("cpu", "cuda")  # one pass over the weights, not several
            self.optimizer = net.get_optimizer(opt.lr, opt.weight_decay, opt.optimizer, fused=fused, **extra)
            self.schedule = Schedule(self.optimizer, opt.scheduler, steps, opt.lr_decay)

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.net.train()
        batch = batch.to(self.device.device)
        logits = self._logits(batch)
        loss = F.cross_entropy(logits, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
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

    def end_epoch(self, figures: dict) -> None:
        self.schedule.end_epoch(figures["loss"])

    def summary(self, means: dict, figures: dict) -> str:
        return f"train loss {means['loss']:.4f}  {metrics.one_line(figures)}"

    def lr(self) -> float:
        return self.schedule.lr

    def state_dict(self) -> dict:
        parts = {"net": self.net, "optimizer": self.optimizer, "scheduler": self.schedule}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["scheduler"])

    def _logits(self, batch: Batch) -> torch.Tensor:
        """(N, K) float32; `batch` lies on the device."""
        images = self.preprocess.normalize(batch.images).contiguous(memory_format=self.device.memory_format)
        with self.device.autocast():
            logits = self.net(images)
        return logits.float()
