"""VGG-16 and VGG-19: 3×3 convolutions in five stages, then three linear layers.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015 (arXiv 1409.1556),
table 1, columns D and E. The form with batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167) keeps the biases of
the convolutions. VGG-16: 138,357,544 parameters, 15.470 GMAC.
"""

from typing import Literal

from torch import Tensor, nn

from gossamer.zoo.initial import he

STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each stage, by the number of layers with weights."""

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Shapes: (N, 3, 224, 224) in, logits (N, classes) out.

    Args:
        layers: how many layers have weights.
        batch_norm: whether each convolution is followed by batch normalisation.
        classes: number of logits.
    """

    def __init__(self, layers: Literal[16, 19] = 16, *, batch_norm: bool = False, classes: int = 1000) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 3
        for count, width in zip(STAGES[layers], WIDTHS, strict=True):
            for _ in range(count):
                features.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    features.append(nn.BatchNorm2d(width))
                features.append(nn.ReLU())
                channels = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
