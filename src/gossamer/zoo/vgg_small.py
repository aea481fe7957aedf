"""A small VGG for 28×28 images: 3×3 convolutions in stages of doubling width, with batch normalisation.

Simonyan & Zisserman, "Very Deep Convolutional Networks", 2015 (arXiv 1409.1556); Ioffe & Szegedy, "Batch
Normalization", 2015 (arXiv 1502.03167).
"""

from torch import Tensor, nn


class VGGSmall(nn.Module):
    """Six 3×3 convolutions with batch normalisation, widths 32-32-64-64-128-128, and two linear layers.

    584,618 parameters, 23.5 million multiply-accumulates. Shapes: (N, 1, 28, 28) in, logits (N, 10) out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(1, 32),
            *_convolution(32, 32),
            nn.MaxPool2d(2),
            *_convolution(32, 64),
            *_convolution(64, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 128),
            nn.MaxPool2d(2),
            *_convolution(128, 128),
        )
        self.fc1 = nn.Linear(128 * 3 * 3, 256)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.fc2(self.act(self.fc1(self.features(images).flatten(1))))
        return logits


def _convolution(channels: int, filters: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()
