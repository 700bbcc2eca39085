"""The task of telling which class an image belongs to."""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from config import Config
from data.image_data import Items
from data.loaders import Batch
from engine import metrics
from engine.recipe import class_weights, load_optimizer_state, make_ema, make_mixup, make_optimizer, resized_side
from engine.schedules import Schedule
from engine.tasks.base import Task, buffers_of, check_finite
from models.basic_module import BasicModule
from utils import pictures


class Classify(Task):
    """Cross entropy on the logits of one net."""

    def begin(self, items: Items | None) -> None:
        net, opt, device = self.net, self.opt, self.device
        self.ema, self.side = None, self.preprocess.image_size
        if items is not None:
            weights = class_weights(items) if opt.balance == "loss" else None
            self.loss = nn.CrossEntropyLoss(weights, label_smoothing=opt.label_smoothing).to(device.device)
            self.mix = make_mixup(opt, len(self.classes))
            self.optimizer = make_optimizer(net, opt, device)
            self.lr_schedule = Schedule(self.optimizer, opt.scheduler, opt.lr, opt.lr_decay, opt.warmup)
            self.ema = make_ema(net, opt)

    @property
    def eval_model(self) -> nn.Module:
        """The net that is evaluated and saved as the result: the moving average where there is one."""
        return self.ema.module if self.ema else self.net

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.net.train()
        before = buffers_of(self.net, self.opt)
        batch = batch.to(self.device.device)
        images = self._images(batch)
        if self.side < images.shape[3]:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        images, targets = self.mix(images, batch.labels)
        parts = max(min(self.opt.accumulate, len(batch) // 2), 1)  # BatchNorm cannot learn from one image
        self.optimizer.zero_grad(set_to_none=True)
        loss = right = 0
        for some in torch.arange(len(batch)).tensor_split(parts):
            part = slice(some[0], some[-1] + 1)
            logits = self._logits(self.net, images[part])
            part_loss = self.loss(logits, targets[part]) * (len(some) / len(batch))
            part_loss.backward()
            loss = loss + part_loss.detach()
            right = right + (logits.detach().argmax(dim=1) == batch.labels[part]).sum()
        check_finite(loss, self.net, before)
        if self.opt.clip_grad:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.opt.clip_grad)
        self.optimizer.step()
        if self.ema:
            self.ema.update_parameters(self.net)
        return {"loss": loss, "accuracy": right / len(batch)}

    @staticmethod
    def tutorial_step(net: BasicModule, opt: Config) -> Callable[[torch.Tensor, torch.Tensor], None]:
        optimizer = torch.optim.Adam(net.parameters(), lr=opt.lr)

        def step(images: torch.Tensor, labels: torch.Tensor) -> None:
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    def predict(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
        net = self.eval_model.eval()
        with torch.inference_mode():
            for batch in batches:
                images = self._images(batch.to(self.device.device))
                logits = self._logits(net, images)
                if self.opt.flip_test:
                    logits = (logits + self._logits(net, images.flip(3))) / 2
                yield batch, logits.cpu()

    def evaluate(self, batches: Iterable[Batch]) -> dict:
        labels, logits, self.shown = [], [], None
        for batch, batch_logits in self.predict(batches):
            self.shown = self.shown or (batch, batch_logits)
            labels.append(batch.labels)
            logits.append(batch_logits)
        return metrics.classification(torch.cat(logits), torch.cat(labels))

    def pictures(self) -> dict[str, np.ndarray]:
        batch, logits = self.shown
        return {"predictions": pictures.predictions(batch.images.cpu().numpy(), batch.labels, logits, self.classes)}

    def schedule(self, done: float) -> None:
        self.lr_schedule.set(done)
        side = self.preprocess.image_size
        self.side = resized_side(side) if done < self.opt.progressive_resizing else side

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

    def table(self, figures: dict) -> str:
        return metrics.table(figures, self.classes)

    def praise(self, score: float) -> str:
        return f"accuracy {score:.2%}"

    def next_steps(self, folder: str) -> list[str]:
        images = shlex.quote(self.opt.test_data_root)
        return [
            f"python main.py val --load-path={folder}",
            f"python main.py test --load-path={folder} --test-data-root={images}",
        ]

    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict:
        parts = {"net": self.eval_model, "optimizer": self.optimizer, "scheduler": self.lr_schedule}
        state = {name: part.state_dict() for name, part in parts.items()}
        if self.ema:  # then `net` is the average, and this what learns
            state |= {"learning_net": self.net.state_dict(), "averaged": int(self.ema.n_averaged)}
        return state

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state.get("learning_net", state["net"]))
        if self.ema:
            self.ema.module.load_state_dict(state["net"])
            self.ema.n_averaged.fill_(state.get("averaged", 0))
        load_optimizer_state(self.optimizer, state["optimizer"], saved=("lr",))
        self.lr_schedule.load_state_dict(state["scheduler"])

    def _images(self, batch: Batch) -> torch.Tensor:
        """(N, C, S, S) float32, normalized; `batch` lies on the device. Grey images repeat for a net of 3 channels."""
        images = self.preprocess.normalize(batch.images)
        return images.expand(-1, self.net.in_channels, -1, -1) if images.shape[1] == 1 else images

    def _logits(self, net: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """(N, K) float32."""
        with self.device.autocast():
            logits = net(images.contiguous(memory_format=self.device.memory_format))
        return logits.float()
