"""LeNet."""

from torch import nn

from models.basic_module import BasicModule


class LeNet(BasicModule):
    """LeNet as PyTorch's 60-minute blitz and chapter 2 of the book have it: convolutions 6-16, linear 120-84.

    After LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.

    Input (N, in_channels, S, S), S = image_size of 16 or more; output logits (N, num_classes).
    62,006 parameters with 3 channels, 32 pixels and 10 classes.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        side = ((image_size - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)
        )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))  # features: (N, 16, S/4 - 3, S/4 - 3)
