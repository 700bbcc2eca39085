"""A net of few layers with what a resumed training must get right: BatchNorm's averages and dropout's draws."""

import torch
from torch import nn


class SmallNet(nn.Module):
    """Takes (N, 3, H, W), gives (N, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.norm(self.conv(x)).relu().mean(dim=(2, 3))))
