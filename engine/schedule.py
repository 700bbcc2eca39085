"""Learning rate schedules, by name."""

from torch import optim
from torch.optim import lr_scheduler


class Schedule:
    """The learning rate's way down: `step` after every training step, `end_epoch` after every validation.

    plateau: times `lr_decay` whenever the validation loss is above the one before (book, chapter 6; its code
    follows the training loss). cosine, onecycle: torch's, over all `steps`. constant: none.
    """

    def __init__(self, optimizer: optim.Optimizer, name: str, steps: int, lr_decay: float) -> None:
        self.optimizer, self.name, self.lr_decay = optimizer, name, lr_decay
        self.previous_loss = float("inf")
        self.inner = None
        if name == "cosine":
            self.inner = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        elif name == "onecycle":
            self.inner = lr_scheduler.OneCycleLR(
                optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=steps + 1
            )

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        if self.inner:
            self.inner.step()

    def end_epoch(self, val_loss: float) -> None:
        if self.name == "plateau" and val_loss > self.previous_loss:
            for group in self.optimizer.param_groups:
                group["lr"] *= self.lr_decay
        self.previous_loss = val_loss

    def state_dict(self) -> dict:
        return {"previous_loss": self.previous_loss, "inner": self.inner.state_dict() if self.inner else None}

    def load_state_dict(self, state: dict) -> None:
        self.previous_loss = state["previous_loss"]
        if self.inner:
            self.inner.load_state_dict(state["inner"])
