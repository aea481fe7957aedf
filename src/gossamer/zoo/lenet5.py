"""LeNet-5 in the form of the Caffe examples: 20 and 50 filters, 500 units, 431,080 parameters.

It is the form that Han et al. 2015 and most compression papers after it measure.
"""

from torch import Tensor, nn

from gossamer.zoo.hidden import Hidden, hidden_unit


class LeNet5(nn.Module):
    """Two 5×5 convolutions, each with 2×2 max pooling, and two linear layers.

    Shapes: (N, 1, 28, 28) in, logits (N, 10) out.

    Args:
        hidden: kind of the hidden unit between the linear layers (Caffe has none after the convolutions).
    """

    def __init__(self, hidden: Hidden = "relu") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(800, 500)
        self.act = hidden_unit(hidden)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.pool(self.conv2(self.pool(self.conv1(images))))
        logits: Tensor = self.fc2(self.act(self.fc1(maps.flatten(1))))
        return logits
