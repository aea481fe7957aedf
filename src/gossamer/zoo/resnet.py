"""ResNet-18, ResNet-50 and ResNet-152 for large images.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2016 (arXiv 1512.03385), table 1, with projections
where a stage begins (option B). A bottleneck that halves the size does so in its 3×3 convolution, as is usual since
Goyal et al. 2017 (arXiv 1706.02677). ResNet-18: 11,689,512 parameters, 1.814 GMAC; ResNet-50: 25,557,032, 4.089 GMAC;
ResNet-152: 60,192,808, 11.514 GMAC.

The last normalisation of each of the n blocks starts at 1 / √n (De & Smith 2020, arXiv 2002.10444): so the sum of all
blocks keeps its size even before the running statistics are known. With 1, a new ResNet-152 multiplies it by millions.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.zoo.initial import he


class Basic(nn.Module):
    """Two 3×3 convolutions and a shortcut.

    Shapes: (N, channels, H, W) in, (N, width, H / stride, W / stride) out.
    """

    GROWTH = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn_last = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return relu(F(maps) + shortcut(maps))."""
        inner = self.bn_last(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(inner + self.shortcut(maps))


class Bottleneck(nn.Module):
    """A 1×1, a 3×3 and a 1×1 convolution of four times the width, and a shortcut.

    Shapes: (N, channels, H, W) in, (N, 4 · width, H / stride, W / stride) out.
    """

    GROWTH = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn_last = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(channels, 4 * width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return relu(F(maps) + shortcut(maps))."""
        inner = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps))))))
        return F.relu(self.bn_last(self.conv3(inner)) + self.shortcut(maps))


STAGES: dict[int, tuple[type[Basic | Bottleneck], tuple[int, ...]]] = {
    18: (Basic, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Kind of block and blocks of each stage, by the number of layers with weights."""


class ResNet(nn.Module):
    """Shapes: (N, 3, H, W) in, 224×224 as published, logits (N, classes) out.

    Args:
        layers: how many layers have weights.
        classes: number of logits.
    """

    def __init__(self, layers: Literal[18, 50, 152] = 18, *, classes: int = 1000) -> None:
        super().__init__()
        block, counts = STAGES[layers]
        self.conv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        stages = []
        for number, count in enumerate(counts):
            width, blocks = 64 * 2**number, []
            for index in range(count):
                blocks.append(block(channels, width, stride=2 if number and not index else 1))
                channels = width * block.GROWTH
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, classes)
        he(self)
        for module in self.modules():
            if isinstance(module, Basic | Bottleneck):
                nn.init.constant_(module.bn_last.weight, sum(counts) ** -0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.stages(self.pool(F.relu(self.bn(self.conv(images)))))
        logits: Tensor = self.fc(maps.mean(dim=(2, 3)))
        return logits


def _shortcut(channels: int, filters: int, stride: int) -> nn.Module:
    if channels == filters and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, filters, 1, stride=stride, bias=False), nn.BatchNorm2d(filters))
