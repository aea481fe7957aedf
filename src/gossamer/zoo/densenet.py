"""DenseNet-121: each layer reads the maps of all layers before it in its block; 7,978,856 parameters, 2.834 GMAC.

Huang, Liu, van der Maaten & Weinberger, "Densely Connected Convolutional Networks", 2017 (arXiv 1608.06993), table 1:
growth rate 32, bottlenecks (B) and compression by half (C).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.zoo.initial import he

BLOCKS = (6, 12, 24, 16)


class Layer(nn.Module):
    """BN, ReLU, 1×1 convolution to four times the growth, BN, ReLU, 3×3 convolution; the input goes before the output.

    Shapes: (N, channels, H, W) in, (N, channels + growth, H, W) out.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps and the new ones, concatenated."""
        inner = self.conv1(F.relu(self.bn1(maps)))
        return torch.cat([maps, self.conv2(F.relu(self.bn2(inner)))], 1)


class DenseNet121(nn.Module):
    """Shapes: (N, 3, H, W) in, 224×224 as published, logits (N, classes) out."""

    def __init__(self, classes: int = 1000, growth: int = 32) -> None:
        super().__init__()
        channels = 2 * growth
        features: list[nn.Module] = [
            nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        for number, count in enumerate(BLOCKS):
            if number:
                features += _transition(channels)
                channels //= 2
            features.append(nn.Sequential(*(Layer(channels + i * growth, growth) for i in range(count))))
            channels += count * growth
        self.features = nn.Sequential(*features)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = F.relu(self.bn(self.features(images)))
        logits: Tensor = self.fc(maps.mean(dim=(2, 3)))
        return logits


def _transition(channels: int) -> tuple[nn.Module, ...]:
    """Halve the channels and the size."""
    conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
    return nn.BatchNorm2d(channels), nn.ReLU(), conv, nn.AvgPool2d(2)
