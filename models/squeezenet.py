"""SqueezeNet."""

import torch
from torch import nn
from torch.nn.functional import relu

from models.basic_module import BasicModule


class Fire(nn.Module):
    """Few channels, then many by 1x1 and 3x3 filters: (N, c_in, H, W) -> (N, 2 * expand, H, W)."""

    def __init__(self, c_in: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = relu(self.squeeze(x))
        return relu(torch.cat([self.expand1(x), self.expand3(x)], dim=1))


class SqueezeNet(BasicModule):
    """SqueezeNet 1.1, the version that the book uses: eight Fire modules and no fully connected layer.

    Iandola and others, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016
    (https://arxiv.org/abs/1602.07360); 1.1 is the authors' revision with 2.4 times less work
    (https://github.com/forresti/SqueezeNet). Equal to torchvision's `squeezenet1_1`.

    Input (N, 3, H, W), H and W of 17 or more; output logits (N, num_classes), never below 0, since a ReLU
    comes before the last average, as in the paper.
    1,235,496 parameters with 1000 classes, 723,522 with 2.
    """

    torchvision_name = "squeezenet1_1"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.num_classes = num_classes

        def half():  # ceil_mode keeps the border pixels of odd sizes
            return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)

        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(inplace=True), half(),
            Fire(64, 16, 64), Fire(128, 16, 64), half(),
            Fire(128, 32, 128), Fire(256, 32, 128), half(),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        head = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.5), head, nn.ReLU(inplace=True))
        for conv in [m for m in self.modules() if isinstance(m, nn.Conv2d)]:
            if conv is head:
                nn.init.normal_(conv.weight, std=0.01)  # all classes start with about the same score
            else:
                nn.init.kaiming_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x):
        return self.classifier(self.features(x)).mean(dim=(2, 3))  # average of each class's map
