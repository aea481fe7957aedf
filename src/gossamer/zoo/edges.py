"""Edge detection as a convolution (Goodfellow et al. 2016, section 9.2, figure 9.6): kernel (1, -1), image 320×280."""

import torch
from torch import Tensor, nn

WIDTH, HEIGHT = 320, 280


class Edges(nn.Module):
    """Each pixel minus its right neighbour. Shapes: (N, 1, 280, 320) in, (N, 1, 280, 319) out; two stored numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, (1, 2), bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 1, 1, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Return the differences."""
        differences: Tensor = self.conv(images)
        return differences
