"""Random networks: blocks of every awkward kind put one after another, for images and for sequences."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.last(self.inner(x)))


class Concat(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(width, width // 2, 1), nn.Conv2d(width, width // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), F.leaky_relu(self.right(x))], 1)


class Split(nn.Module):
    """Two halves go different ways and meet as a gate; the halves are taken by chunk or by slices."""

    def __init__(self, width: int, *, sliced: bool) -> None:
        super().__init__()
        self.first, self.back, self.sliced = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1), sliced

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        half = x.shape[1] // 2
        one, other = (x[:, :half], x[:, half:]) if self.sliced else x.chunk(2, 1)
        return self.back(one * torch.sigmoid(other))


class Grouped(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=2), nn.GroupNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.conv(x)))


class Depthwise(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth, self.point = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.point(self.depth(x)))


class Shuffle(nn.Module):
    """Channel shuffle by reshape and transpose."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Up(nn.Module):
    """A transposed convolution up, a pooling down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.elu(self.up(x)), 2)


class Squeeze(nn.Module):
    """Squeeze and excitation: a scale for each channel from the means of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 3), nn.Linear(3, width)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.conv(x)))


class Rows(nn.Module):
    """Rows of the image as a sequence through a recurrent layer, and back to an image."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        ways = {"bidirectional": {"bidirectional": True}, "stacked": {"num_layers": 2}}.get(kind, {})
        self.rnn = (nn.GRU if kind == "stacked" else nn.LSTM)(width, width, batch_first=True, **ways)
        self.back = nn.Linear(width * (2 if kind == "bidirectional" else 1), width)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        steps = x.flatten(2).transpose(1, 2)
        return self.back(self.rnn(steps)[0]).transpose(1, 2).unflatten(2, (h, w))


class Attend(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        steps = x.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(steps, steps, steps, need_weights=False)
        return x + mixed.transpose(1, 2).unflatten(2, (h, w))


BLOCKS = {
    "residual": Residual,
    "concat": Concat,
    "chunk": lambda width: Split(width, sliced=False),
    "slices": lambda width: Split(width, sliced=True),
    "grouped": Grouped,
    "depthwise": Depthwise,
    "shuffle": Shuffle,
    "up": Up,
    "squeeze": Squeeze,
    "shared": Shared,
    "lstm": lambda width: Rows(width, "plain"),
    "bidirectional": lambda width: Rows(width, "bidirectional"),
    "stacked": lambda width: Rows(width, "stacked"),
    "attention": Attend,
}


class Net(nn.Module):
    """A stem, some blocks, and a head that flattens."""

    def __init__(self, names: list[str], width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.blocks = nn.Sequential(*(BLOCKS[name](width) for name in names))
        self.head = nn.Linear(width * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).flatten(1))


def build(names: list[str], width: int) -> nn.Module:
    """Return a network with batch statistics that are not at their starting values."""
    torch.manual_seed(len(names) + width)
    model = Net(names, width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


networks = st.tuples(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4), st.sampled_from([4, 8]))
