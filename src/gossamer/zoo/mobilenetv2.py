"""MobileNetV2: inverted residuals with linear bottlenecks, 3,504,872 parameters, 0.301 GMAC; and one for small images.

Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018 (arXiv
1801.04381), table 2.
"""

from typing import NamedTuple

from torch import Tensor, nn

from gossamer.zoo.initial import he


class Stage(NamedTuple):
    """A row of table 2: expansion t, channels c, repetitions n, stride s of the first repetition."""

    t: int
    c: int
    n: int
    s: int


class Form(NamedTuple):
    """One network: channels of the images, width and stride of the first convolution, stages, width of the last."""

    channels: int
    first: int
    stride: int
    stages: tuple[Stage, ...]
    last: int
    classes: int


LARGE = Form(
    channels=3,
    first=32,
    stride=2,
    stages=(
        Stage(1, 16, 1, 1),
        Stage(6, 24, 2, 2),
        Stage(6, 32, 3, 2),
        Stage(6, 64, 4, 2),
        Stage(6, 96, 3, 1),
        Stage(6, 160, 3, 2),
        Stage(6, 320, 1, 1),
    ),
    last=1280,
    classes=1000,
)
"""The network of the paper, for (N, 3, 224, 224)."""

SMALL = Form(
    channels=1,
    first=16,
    stride=1,
    stages=(
        Stage(1, 16, 1, 2),
        Stage(4, 24, 2, 1),
        Stage(6, 32, 2, 2),
        Stage(6, 64, 3, 1),
        Stage(6, 96, 1, 1),
    ),
    last=384,
    classes=10,
)
"""For (N, 1, 28, 28): two halvings, down to 7×7 maps; small enough to be trained on a CPU."""


class InvertedResidual(nn.Module):
    """Widen by 1×1, filter each channel by 3×3, narrow by 1×1 without ReLU; the input is added where shapes allow.

    Shapes: (N, channels, H, W) in, (N, filters, H / stride, W / stride) out.
    """

    def __init__(self, channels: int, filters: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        widen = _convolution(channels, width, 1) if expansion > 1 else ()
        self.inner = nn.Sequential(
            *widen,
            *_convolution(width, width, 3, stride=stride, groups=width),
            nn.Conv2d(width, filters, 1, bias=False),
            nn.BatchNorm2d(filters),
        )
        self.residual = stride == 1 and channels == filters

    def forward(self, maps: Tensor) -> Tensor:
        """Return F(maps), with maps added or not."""
        inner: Tensor = self.inner(maps)
        return maps + inner if self.residual else inner


class MobileNetV2(nn.Module):
    """Shapes: (N, channels, H, W) in, logits (N, classes) out.

    Args:
        form: sizes of everything.
    """

    def __init__(self, form: Form = LARGE) -> None:
        super().__init__()
        features: list[nn.Module] = [*_convolution(form.channels, form.first, 3, stride=form.stride)]
        channels = form.first
        for t, c, n, s in form.stages:
            for index in range(n):
                features.append(InvertedResidual(channels, c, s if index == 0 else 1, t))
                channels = c
        self.features = nn.Sequential(*features, *_convolution(channels, form.last, 1))
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(form.last, form.classes)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.features(images)
        logits: Tensor = self.fc(self.drop(maps.mean(dim=(2, 3))))
        return logits


def _convolution(
    channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(channels, filters, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(filters), nn.ReLU6()
