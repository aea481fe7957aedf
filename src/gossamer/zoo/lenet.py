"""LeNets: the networks of the compression papers' tables.

LeNet-300-100 and LeNet-5 come from LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
recognition", Proc. IEEE 86(11), 1998. "LeNet-5" in the compression literature is the larger form that shipped with
Caffe (20-50-500-10); both are here. All take images of shape ``(N, 1, 28, 28)`` and return logits ``(N, 10)``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet300(nn.Module):
    """LeNet-300-100: three dense layers, 266,610 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape ``(N, 10)``."""
        hidden = F.relu(self.fc1(images.flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        return self.fc3(hidden)  # type: ignore[no-any-return]


class LeNet5(nn.Module):
    """LeNet-5 in Caffe's form, 20-50-500-10, with ReLU after each hidden layer: 431,080 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape ``(N, 10)``."""
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        hidden = F.relu(self.fc1(maps.flatten(1)))
        return self.fc2(hidden)  # type: ignore[no-any-return]


class LeNet5LeCun(nn.Module):
    """LeNet-5 as in the paper but with a dense third layer and a linear output: 61,706 parameters.

    The 28×28 image is padded to the paper's 32×32 by the first convolution; squashing is tanh, subsampling the mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Linear(400, 120)
        self.f6 = nn.Linear(120, 84)
        self.out = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape ``(N, 10)``."""
        maps = F.avg_pool2d(torch.tanh(self.c1(images)), 2)
        maps = F.avg_pool2d(torch.tanh(self.c3(maps)), 2)
        hidden = torch.tanh(self.c5(maps.flatten(1)))
        hidden = torch.tanh(self.f6(hidden))
        return self.out(hidden)  # type: ignore[no-any-return]
