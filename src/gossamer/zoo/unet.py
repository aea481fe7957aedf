"""U-Net for segmentation: four halvings, four doublings, and at each size a skip that is concatenated.

Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015 (arXiv 1505.04597).
Unlike there, convolutions pad by one pixel, so that the output has the size of the input, and are followed by batch
normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gossamer.zoo.initial import he


class UNet(nn.Module):
    """Shapes: (N, channels, H, W) in, H and W multiples of 16; logits (N, classes, H, W) out.

    Args:
        channels: of the images.
        classes: of a pixel.
        width: maps at full size; each halving doubles them. The paper has 64.
    """

    def __init__(self, channels: int = 1, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        widths = [width * 2**halvings for halvings in range(5)]
        self.down = nn.ModuleList(_stage(above, below) for above, below in pairwise([channels, *widths[:-1]]))
        self.pool = nn.MaxPool2d(2)
        self.bottom = _stage(widths[-2], widths[-1])
        upwards = list(pairwise(reversed(widths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, above, 2, stride=2) for below, above in upwards)
        self.merge = nn.ModuleList(_stage(2 * above, above) for _, above in upwards)
        self.conv = nn.Conv2d(width, classes, 1)
        he(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of each pixel."""
        maps, skips = images, []
        for stage in self.down:
            skips.append(stage(maps))
            maps = self.pool(skips[-1])
        maps = self.bottom(maps)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            maps = merge(torch.cat([skip, up(maps)], 1))
        logits: Tensor = self.conv(maps)
        return logits


def _stage(channels: int, filters: int) -> nn.Sequential:
    """Two 3×3 convolutions with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
        nn.Conv2d(filters, filters, 3, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    )
