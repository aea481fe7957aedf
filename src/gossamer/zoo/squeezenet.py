"""SqueezeNet 1.1: eight fire modules and no linear layer, 1,235,496 parameters, 0.349 GMAC.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016 (arXiv 1602.07360); version 1.1 is
the authors' later form, with a smaller first convolution and earlier pooling.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.zoo.initial import he


class Fire(nn.Module):
    """Squeeze by 1×1, expand by 1×1 and by 3×3 to half of the output each.

    Shapes: (N, channels, H, W) in, (N, 2 · expanded, H, W) out.
    """

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.one = nn.Conv2d(squeezed, expanded, 1)
        self.three = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps of both expansions, concatenated."""
        inner = F.relu(self.squeeze(maps))
        return torch.cat([F.relu(self.one(inner)), F.relu(self.three(inner))], 1)


class SqueezeNet(nn.Module):
    """Shapes: (N, 3, H, W) in, 224×224 as published, logits (N, classes) out."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            _halving(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _halving(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _halving(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        self.drop = nn.Dropout(0.5)
        self.conv = nn.Conv2d(512, classes, 1)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: the mean of each class's map."""
        return F.relu(self.conv(self.drop(self.features(images)))).mean(dim=(2, 3))


def _halving() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
