"""LeNet-300-100, fully connected, in the form that Han et al. 2015 prune: ReLU units, 266,610 parameters.

LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
"""

from torch import Tensor, nn

from gossamer.zoo.hidden import Hidden, hidden_unit


class LeNet300(nn.Module):
    """784-300-100-10. Shapes: (N, 1, 28, 28) or (N, 784) in, logits (N, 10) out.

    Args:
        hidden: kind of hidden unit.
    """

    def __init__(self, hidden: Hidden = "relu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.act1 = hidden_unit(hidden)
        self.fc2 = nn.Linear(300, 100)
        self.act2 = hidden_unit(hidden)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.fc3(self.act2(self.fc2(self.act1(self.fc1(images.flatten(1))))))
        return logits
