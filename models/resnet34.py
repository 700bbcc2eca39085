"""ResNet34."""

from torch import nn

from models.basic_module import BasicModule


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size at stride 1, and its batch norm, which makes a bias needless."""
    return [nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out)]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: (N, c_in, H, W) -> (N, c_out, H/stride, W/stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1):
        super().__init__()
        self.left = nn.Sequential(*conv_bn(c_in, c_out, 3, stride), nn.ReLU(inplace=True), *conv_bn(c_out, c_out, 3))
        same = stride == 1 and c_in == c_out
        self.right = nn.Identity() if same else nn.Sequential(*conv_bn(c_in, c_out, 1, stride))

    def forward(self, x):
        return nn.functional.relu(self.left(x) + self.right(x), inplace=True)


class ResNet34(BasicModule):
    """ResNet-34: a stem, then 3, 4, 6 and 3 residual blocks of widths 64, 128, 256 and 512.

    He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015 (https://arxiv.org/abs/1512.03385).
    Equal to torchvision's `resnet34`.

    Input (N, 3, H, W), H and W of 1 or more (up to 32 the last maps are 1x1: batch norm then trains with
    N of 2 or more only); output logits (N, num_classes).
    21,797,672 parameters with 1000 classes, 21,285,698 with 2.
    """

    torchvision_name = "resnet34"

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.num_classes = num_classes
        self.pre = nn.Sequential(*conv_bn(3, 64, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1))
        self.layer1 = self.make_layer(64, 64, blocks=3, stride=1)
        self.layer2 = self.make_layer(64, 128, blocks=4, stride=2)
        self.layer3 = self.make_layer(128, 256, blocks=6, stride=2)
        self.layer4 = self.make_layer(256, 512, blocks=3, stride=2)
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def make_layer(c_in: int, c_out: int, blocks: int, stride: int) -> nn.Sequential:
        """Blocks of one width; the first changes width and size."""
        rest = [ResidualBlock(c_out, c_out) for _ in range(blocks - 1)]
        return nn.Sequential(ResidualBlock(c_in, c_out, stride), *rest)

    def forward(self, x):
        x = self.pre(x)  # (N, 64, H/4, W/4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 512, H/32, W/32)
        return self.fc(x.mean(dim=(2, 3)))
