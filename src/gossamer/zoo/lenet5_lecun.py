"""LeNet-5 in the sizes of LeCun et al. 1998: 6 and 16 maps, 120 and 84 units, 61,706 parameters.

As is usual today, the second convolution is fully connected to the maps before it and the output layer is linear.
"""

import torch
from torch import Tensor, nn


class LeNet5LeCun(nn.Module):
    """Two 5×5 convolutions with tanh and average pooling, three linear layers.

    Shapes: (N, 1, 28, 28) in (the first convolution pads to the 32×32 of the paper), logits (N, 10) out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.AvgPool2d(2)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.pool(torch.tanh(self.conv1(images)))
        maps = self.pool(torch.tanh(self.conv2(maps)))
        units = torch.tanh(self.fc2(torch.tanh(self.fc1(maps.flatten(1)))))
        logits: Tensor = self.fc3(units)
        return logits
