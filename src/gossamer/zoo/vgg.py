"""A small VGG with batch normalisation for 28×28 to 32×32 images.

After Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015: pairs of
3×3 convolutions, halved resolution and doubled width after each pair.
"""

from torch import Tensor, nn


class VggSmall(nn.Module):
    """Six convolutions of ``width`` to ``4 * width`` channels and two dense layers, for 28×28 images."""

    def __init__(self, width: int = 24, classes: int = 10, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for after in (width, 2 * width, 4 * width):
            for _ in range(2):
                layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(before * (size // 8) ** 2, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape ``(N, classes)``."""
        return self.classifier(self.features(images).flatten(1))  # type: ignore[no-any-return]
