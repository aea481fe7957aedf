"""ResNets for small images: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, §4.2.

Three stages of ``n`` basic blocks at widths 16, 32 and 64 give depth 6n + 2. Where the shape changes, the shortcut is a
1×1 projection (the paper's option B).
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of shape ``(N, after, H / stride, W / stride)``."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(residual + self.shortcut(maps))


class ResNetSmall(nn.Module):
    """ResNet of depth 6 * ``blocks`` + 2 for ``(N, channels, 28, 28)`` or 32×32 images; ``blocks=3`` is ResNet-20."""

    def __init__(self, blocks: int = 3, width: int = 16, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.stages = nn.Sequential()
        before = width
        for stage, after in enumerate((width, 2 * width, 4 * width)):
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            self.stages.append(nn.Sequential())
            for stride in strides:
                self.stages[stage].append(Block(before, after, stride))  # type: ignore[operator]
                before = after
        self.fc = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape ``(N, classes)``."""
        maps = self.stages(F.relu(self.bn(self.conv(images))))
        return self.fc(maps.mean(dim=(2, 3)))  # type: ignore[no-any-return]
