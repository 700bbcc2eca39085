"""Where a training stands."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch


@dataclass
class EpochProgress:
    """The epoch under way: images that lie behind, sums of their metrics, seconds, and what is to be reported of it."""

    seen: int = 0
    lr: float = 0.0
    sums: dict[str, Any] = field(default_factory=dict)
    counted: int = 0
    seconds: float = 0.0
    bad: list[str] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.counted for name, total in self.sums.items()}


@dataclass
class TrainerState:
    """Whole epochs and steps done, the epoch under way, the best value of the monitored metric and its epoch."""

    epoch: int = 0
    step: int = 0
    progress: EpochProgress = field(default_factory=EpochProgress)
    monitor: str = ""
    best_value: float | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    warned: bool = False

    @property
    def is_best(self) -> bool:
        """Whether this is the end of the best epoch so far."""
        return 0 < self.best_epoch == self.epoch and not self.progress.seen

    def watch(self, monitor: str) -> None:
        """Sets the metric that the best epoch is chosen by; another one than before begins anew."""
        if self.monitor not in ("", monitor):
            self.best_value, self.best_loss, self.best_epoch = None, math.inf, 0
        self.monitor = monitor

    def count_step(self, lr: float, images: int, bad: list[str], metrics: dict[str, torch.Tensor]) -> None:
        """Counts a step of so many images; one that was skipped has no metrics."""
        progress = self.progress
        progress.lr = progress.lr if progress.seen else lr
        self.step, progress.seen, progress.bad = self.step + 1, progress.seen + images, progress.bad + bad
        if metrics:
            progress.counted += images
            progress.sums = {name: progress.sums.get(name, 0) + value * images for name, value in metrics.items()}

    def update_best(self, modes: dict[str, str]) -> None:
        """Compares the last validation with the best one: by the monitored metric, and among equals by the loss."""
        value, loss = float(self.metrics[self.monitor]), float(self.metrics.get("loss", math.inf))
        sign = 1 if modes[self.monitor] == "max" else -1
        best = -math.inf if self.best_value is None else sign * self.best_value
        if not math.isnan(value) and (sign * value, -loss) > (best, -self.best_loss):
            self.best_value, self.best_loss, self.best_epoch = value, loss, self.epoch

    def state_dict(self) -> dict[str, Any]:
        state = asdict(self)
        state["progress"]["sums"] = {name: float(total) for name, total in self.progress.sums.items()}
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Any] | None) -> "TrainerState":
        state = state or {}
        return cls(
            **_known(cls, state) | {"progress": EpochProgress(**_known(EpochProgress, state.get("progress", {})))}
        )


def _known(cls: type, state: dict[str, Any]) -> dict[str, Any]:
    return {f.name: state[f.name] for f in fields(cls) if f.name in state}
