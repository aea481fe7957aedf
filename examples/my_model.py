"""A network that lives outside the package; anything that returns a ``torch.nn.Module`` will do."""

from torch import Tensor, nn


class SmallNet(nn.Module):
    """Two convolutions and two linear layers for the 8×8 digits: 151,306 parameters.

    Shapes: (N, 1, 8, 8) in, (N, 10) out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of ten classes."""
        hidden = self.conv1(images).relu()
        hidden = nn.functional.max_pool2d(self.conv2(hidden).relu(), 2)
        hidden = self.fc1(hidden.flatten(1)).relu()
        logits: Tensor = self.fc2(hidden)
        return logits


def build() -> nn.Module:
    """Return the network, untrained; the command line fills it from ``--weights``."""
    return SmallNet()
