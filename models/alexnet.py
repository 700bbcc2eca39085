"""AlexNet."""

from torch import nn

from models.basic_module import BasicModule


def conv_relu(c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    """A convolution with bias and its ReLU."""
    return [nn.Conv2d(c_in, c_out, kernel, stride, padding), nn.ReLU(inplace=True)]


def half() -> nn.Module:
    """The overlapping max pooling of the paper: (H, W) -> about (H/2, W/2)."""
    return nn.MaxPool2d(kernel_size=3, stride=2)


class AlexNet(BasicModule):
    """AlexNet in its one-column form: five convolutions and three fully connected layers.

    Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014
    (https://arxiv.org/abs/1404.5997), after Krizhevsky, Sutskever, Hinton, 2012.
    Equal to torchvision's `alexnet`.

    Input (N, 3, H, W), H and W of 63 or more; output logits (N, num_classes).
    61,100,840 parameters with 1000 classes, 57,012,034 with 2.
    """

    torchvision_name = "alexnet"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(
            *conv_relu(3, 64, kernel=11, stride=4, padding=2), half(),
            *conv_relu(64, 192, kernel=5, padding=2), half(),
            *conv_relu(192, 384, kernel=3),
            *conv_relu(384, 256, kernel=3),
            *conv_relu(256, 256, kernel=3), half(),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(6)  # any image size ends as (N, 256, 6, 6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True),
            nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))
