"""GoogLeNet without its auxiliary heads: nine inception modules, 6,624,904 parameters, 1.498 GMAC.

Szegedy et al., "Going Deeper with Convolutions", 2015 (arXiv 1409.4842), table 1, in the form that is measured today:
batch normalisation after every convolution (Ioffe & Szegedy 2015, arXiv 1502.03167), and 3×3 filters where the paper
has 5×5, so that the counts equal those published for torchvision's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.zoo.initial import he

Widths = tuple[int, tuple[int, int], tuple[int, int], int]

MODULES: tuple[tuple[int, Widths] | None, ...] = (
    (192, (64, (96, 128), (16, 32), 32)),  # 3a
    (256, (128, (128, 192), (32, 96), 64)),
    None,
    (480, (192, (96, 208), (16, 48), 64)),  # 4a
    (512, (160, (112, 224), (24, 64), 64)),
    (512, (128, (128, 256), (24, 64), 64)),
    (512, (112, (144, 288), (32, 64), 64)),
    (528, (256, (160, 320), (32, 128), 128)),
    None,
    (832, (256, (160, 320), (32, 128), 128)),  # 5a
    (832, (384, (192, 384), (48, 128), 128)),
)
"""Of each module the channels it reads and the widths of its branches; None where maps are pooled."""


class Convolution(nn.Module):
    """A convolution that keeps the size (divided by ``stride``), batch normalisation and ReLU."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(filters, eps=0.001)

    def forward(self, maps: Tensor) -> Tensor:
        """Return relu(bn(conv(maps)))."""
        return F.relu(self.bn(self.conv(maps)))


class Inception(nn.Module):
    """Four branches on the same maps, concatenated: 1×1; 1×1 and 3×3; 1×1 and the second 3×3; pooling and 1×1.

    Shapes: (N, channels, H, W) in, (N, sum of the branches' widths, H, W) out.
    """

    def __init__(self, channels: int, widths: Widths) -> None:
        super().__init__()
        one, (reduced_three, three), (reduced_five, five), pooled = widths
        self.one = Convolution(channels, one, 1)
        self.three = nn.Sequential(Convolution(channels, reduced_three, 1), Convolution(reduced_three, three, 3))
        self.five = nn.Sequential(Convolution(channels, reduced_five, 1), Convolution(reduced_five, five, 3))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), Convolution(channels, pooled, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the branches' maps, concatenated."""
        return torch.cat([self.one(maps), self.three(maps), self.five(maps), self.pooled(maps)], 1)


class GoogLeNet(nn.Module):
    """Shapes: (N, 3, H, W) in, 224×224 as published, logits (N, classes) out."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Convolution(3, 64, 7, stride=2),
            _halving(),
            Convolution(64, 64, 1),
            Convolution(64, 192, 3),
            _halving(),
        )
        self.inception = nn.Sequential(*(_halving() if given is None else Inception(*given) for given in MODULES))
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.inception(self.stem(images))
        logits: Tensor = self.fc(self.drop(maps.mean(dim=(2, 3))))
        return logits


def _halving() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
