"""ResNet-20 for small images: three stages of three blocks, widths 16, 32, 64, parameter-free shortcuts (option A).

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2 (arXiv 1512.03385).
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut; where the block narrows, the shortcut skips pixels and pads channels."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.grown = filters - channels
        self.conv1 = nn.Conv2d(channels, filters, 3, stride=2 if self.grown else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)

    def forward(self, maps: Tensor) -> Tensor:
        """Return relu(F(maps) + shortcut(maps))."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        if self.grown:
            maps = F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.grown))
        return F.relu(inner + maps)


class ResNet20(nn.Module):
    """Shapes: (N, 1, 28, 28) in, logits (N, 10) out."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks = [Block(width, width) for _ in range(3)]
        blocks += [Block(width if i == 0 else 2 * width, 2 * width) for i in range(3)]
        blocks += [Block(2 * width if i == 0 else 4 * width, 4 * width) for i in range(3)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.blocks(F.relu(self.bn(self.conv(images))))
        logits: Tensor = self.fc(maps.mean(dim=(2, 3)))
        return logits
