"""The tutorials' nets and loops, written as their authors have them, against this program's."""

import numpy as np
import pytest
import torch
from compare import record
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import data
import models


class SixtyLines(nn.Module):
    """The net of "MNIST in 60 lines"."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5, 1)
        self.conv2 = nn.Conv2d(20, 50, 5, 1)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2, 2)
        x = F.relu(self.fc1(x.view(-1, 4 * 4 * 50)))
        return F.log_softmax(self.fc2(x), dim=1)


class Handbook(nn.Module):
    """The MNIST net of the PyTorch handbook."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 3)
        self.fc1 = nn.Linear(20 * 10 * 10, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, 2)
        x = F.relu(self.conv2(x)).view(x.size(0), -1)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


class Blitz(nn.Module):
    """The net of the 60-minute blitz, here for grey images of 28 pixels."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return F.log_softmax(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x))))), dim=1)


class Digits(Dataset):
    def __init__(self, root):
        self.found = data.open("MNIST", root)
        self.images = self.found.pixels(self.found.items)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = torch.from_numpy(self.images[i]).permute(2, 0, 1).float() / 255
        return (image - self.found.mean[0]) / self.found.std[0], self.found.items[i][1]


SGD = ["--optimizer=SGD", "--no-nesterov", "--scheduler=constant", "--weight-decay=0"]
RECIPES = {
    "MNISTNet": (
        SixtyLines,
        6,
        [*SGD, "--lr=0.01", "--momentum=0.5"],
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.5),
    ),
    "ConvNet": (Handbook, 6, ["--scheduler=constant", "--weight-decay=0"], torch.optim.Adam),
    "LeNet": (Blitz, 4, [*SGD, "--lr=0.001"], lambda p: torch.optim.SGD(p, 0.001, momentum=0.9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_first_hundred_losses_are_those_of_the_tutorials_loop(name, mnist, command, tmp_path):
    theirs, batch_size, flags, optimizer_of = RECIPES[name]
    epochs = -(-100 // (240 // batch_size))
    given = [
        "--dataset=MNIST",
        f"--train-data-root={mnist}",
        f"--model={name}",
        f"--batch-size={batch_size}",
        "--seed=5",
    ]
    given += [f"--max-epoch={epochs}", "--amp=off", "--use-gpu=false", "--vis-port=None", "--print-freq=50", *flags]
    code, _, err = command("train", *given, f"--checkpoint-dir={tmp_path / 'runs'}")
    assert code == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    ours = [event["loss"] for event in record(run) if event["kind"] == "step"][:100]

    torch.manual_seed(5)
    start, net = models.build(name, 10, 28, channels=1), theirs()
    assert [p.shape for p in net.parameters()] == [p.shape for p in start.parameters()]
    net.load_state_dict(dict(zip(net.state_dict(), start.state_dict().values(), strict=True)))
    optimizer, losses = optimizer_of(net.parameters()), []
    for epoch in range(epochs):
        order = np.random.default_rng((5, epoch)).permutation(240).tolist()
        for images, labels in DataLoader(Digits(mnist), batch_size, sampler=order):
            loss = F.nll_loss(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(ours) == 100 and losses[99] < losses[0]
    np.testing.assert_allclose(ours, losses[:100], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "name, channels, size, count",
    [("MNISTNet", 1, 28, 431_080), ("ConvNet", 1, 28, 1_007_590), ("LeNet", 3, 32, 62_006)],
)
def test_parameter_counts_are_those_of_the_sources(name, channels, size, count):
    assert sum(p.numel() for p in models.build(name, 10, size, channels=channels).parameters()) == count
