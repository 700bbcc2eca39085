"""The two nets of the MNIST tutorials."""

from torch import nn

from models.basic_module import BasicModule


class MNISTNet(BasicModule):
    """The net of "MNIST in 60 lines": convolutions 20-50 of 5x5, each pooled, linear 500.

    Input (N, in_channels, S, S), S = image_size of 16 or more; output logits (N, num_classes): the tutorial's
    log-softmax and NLL loss are one with the cross entropy of the logits.
    431,080 parameters with 1 channel, 28 pixels and 10 classes.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        side = ((image_size - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(nn.Linear(50 * side * side, 500), nn.ReLU(), nn.Linear(500, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))  # features: (N, 50, S/4 - 3, S/4 - 3)


class ConvNet(BasicModule):
    """The net of the PyTorch handbook's MNIST chapter: convolutions 10 of 5x5, pooled, 20 of 3x3; linear 500.

    Input (N, in_channels, S, S), S = image_size of 10 or more; output logits (N, num_classes).
    1,007,590 parameters with 1 channel, 28 pixels and 10 classes.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28):
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        side = (image_size - 4) // 2 - 2
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 10, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(10, 20, 3), nn.ReLU()
        )
        self.classifier = nn.Sequential(nn.Linear(20 * side * side, 500), nn.ReLU(), nn.Linear(500, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))  # features: (N, 20, S/2 - 4, S/2 - 4)
