"""A small network for the embedded 8×8 digits, trained in seconds: what ``gossamer demo`` compresses."""

from torch import Tensor, nn

from gossamer.zoo.hidden import Hidden, hidden_unit


class MLPDigits(nn.Module):
    """64-256-128-10. Shapes: (N, 1, 8, 8) in, logits (N, 10) out.

    Args:
        hidden: kind of hidden unit.
    """

    def __init__(self, hidden: Hidden = "relu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 256)
        self.act1 = hidden_unit(hidden)
        self.fc2 = nn.Linear(256, 128)
        self.act2 = hidden_unit(hidden)
        self.fc3 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.fc3(self.act2(self.fc2(self.act1(self.fc1(images.flatten(1))))))
        return logits
