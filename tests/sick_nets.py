"""Nets that cannot learn, each for one reason, and one that can."""

import torch
from torch import nn
from torch.nn import functional as F


class Healthy(nn.Module):
    """Takes (N, 3, H, W), gives (N, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 16, 32)
        self.fc2 = nn.Linear(32, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(self.norm(self.conv(x)).relu(), 4).flatten(1)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.relu(self.fc1(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.features(x), 0.0))


class Frozen(Healthy):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.requires_grad_(False)


class Detached(Healthy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


class CutTrunk(Healthy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).detach())


class Zero(Healthy):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for p in self.parameters():
            nn.init.zeros_(p)


class Dead(Healthy):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        nn.init.constant_(self.fc1.bias, -100)


class Dying(Healthy):
    """Of fc1 three quarters of the units are dead; the rest learns."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        nn.init.constant_(self.fc1.bias[:24], -100)


class Blind(Healthy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.zeros_like(x[:1]).expand_as(x))


class Softmax(Healthy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(dim=1)


class Sigmoid(Healthy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).sigmoid()


class Rectified(Healthy):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        nn.init.constant_(self.fc2.bias, -0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


class Overflow(Healthy):
    """From the 6th training step on the output of fc1 is infinite."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("calls", torch.zeros(()))
        self.fc1.register_forward_hook(self._spoil)

    def _spoil(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return output * torch.inf if self.calls > 5 else output
