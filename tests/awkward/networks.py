"""The awkward-models zoo: one tiny network per thing that breaks tools, each with its own example inputs."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


@dataclass(frozen=True)
class Awkward:
    """A network that is awkward in one way.

    Attributes:
        name: what is awkward about it.
        make: builds a fresh instance; two calls give the same structure.
        args: makes the positional example inputs.
        kwargs: makes the keyword example inputs.
    """

    name: str
    make: Callable[[], nn.Module]
    args: Callable[[], tuple[Any, ...]]
    kwargs: Callable[[], Mapping[str, Any]] = field(default=dict)

    def build(self, seed: int = 0) -> nn.Module:
        """Return a fresh instance in evaluation mode; batch statistics are not at their starting values."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.make()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.uniform_(-0.5, 0.5)
                    module.running_var.uniform_(0.5, 1.5)
        return model.eval()

    def inputs(self, seed: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return example inputs, the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.args(), dict(self.kwargs())


class TiedWeights(nn.Module):
    """An embedding and the output layer own one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.table(tokens))))


class SharedModule(nn.Module):
    """One layer sits at two paths and runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.again = nn.ModuleList([self.first, nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for layer in self.again:
            x = torch.relu(layer(x))
        return self.first(x)


class GroupedConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class DepthwiseConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.point = nn.Conv2d(4, 6, 1)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.hardswish(self.point(self.depth(x))).amax((2, 3)))


class Residual(nn.Module):
    """Two branches meet by addition; a batch norm's input is also used elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(torch.relu(self.norm(x)))
        return self.out((x + y).mean((2, 3)))


class Concat(nn.Module):
    """Two branches meet side by side; the outputs are a dict, the second input a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 8)
        self.right = nn.Linear(4, 8)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor, *, other: Tensor) -> dict[str, Tensor]:
        both = torch.cat([F.leaky_relu(self.left(x)), torch.abs(self.right(other))], -1)
        return {"logits": self.out(both)}


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.rnn = kind(5, 8, batch_first=True, **settings)
        width = (settings.get("proj_size") or 8) * (2 if settings.get("bidirectional") else 1)
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Packed(nn.Module):
    """Sequences of several lengths through a GRU, packed and padded again."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 8, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed)
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
        return self.out(padded), self.out(last[-1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.out(self.norm(x + mixed)).mean(1)


class HandAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        split = [layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = F.scaled_dot_product_attention(*split)
        return self.out(mixed.transpose(1, 2).flatten(2)).mean(1)


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 6, padding_idx=0)
        self.out = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.table(tokens).mean(1))


class Unused(nn.Module):
    """A layer and a free matrix that no forward pass reads; another free matrix that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(5, 4)
        self.loose = nn.Parameter(torch.randn(4, 4))
        self.free = nn.Parameter(torch.randn(6, 6))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x @ self.free))


class Convolution1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 4, stride=2, padding=1, padding_mode="circular")
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(x)).mean(2))


class Convolution3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, (1, 2, 3), dilation=(1, 2, 1))
        self.norm = nn.BatchNorm3d(4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3, 4)))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.up(x))))


class WeightNormed(nn.Module):
    """Weight norm in both of torch's styles, and in the old one on a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.old = nn.utils.weight_norm(nn.Linear(6, 8))
            self.rnn = nn.utils.weight_norm(nn.GRU(8, 6, batch_first=True), "weight_hh_l0")
        self.new = parametrizations.weight_norm(nn.Linear(6, 8))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.new(self.rnn(torch.relu(self.old(x)))[0])).mean(1))


class HalfPrecision(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.hidden = nn.Linear(4 * 16, 8)
        self.out = nn.Linear(8, 3)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(torch.relu(self.conv(x)).flatten(1))))


class Plain(nn.Module):
    """Nothing is awkward: the one to compare with."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _image(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*shape),)


def _tokens(limit: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(0, limit, (4, 6)),)


NETWORKS: tuple[Awkward, ...] = (
    Awkward("plain", Plain, _image(4, 6)),
    Awkward("tied weights", TiedWeights, _tokens(11)),
    Awkward("shared module", SharedModule, _image(4, 8)),
    Awkward("grouped convolution", GroupedConvolution, _image(2, 4, 6, 6)),
    Awkward("depthwise convolution", DepthwiseConvolution, _image(2, 4, 6, 6)),
    Awkward("residual", Residual, _image(2, 3, 6, 6)),
    Awkward("concat", Concat, _image(4, 6), lambda: {"other": torch.randn(4, 4)}),
    Awkward("rnn", lambda: Recurrent(nn.RNN, num_layers=2), _image(3, 4, 5)),
    Awkward("lstm", lambda: Recurrent(nn.LSTM, num_layers=2), _image(3, 4, 5)),
    Awkward("gru", lambda: Recurrent(nn.GRU), _image(3, 4, 5)),
    Awkward("bidirectional", lambda: Recurrent(nn.LSTM, bidirectional=True), _image(3, 4, 5)),
    Awkward("projected lstm", lambda: Recurrent(nn.LSTM, proj_size=4), _image(3, 4, 5)),
    Awkward("packed sequences", Packed, lambda: (torch.randn(3, 4, 5), torch.tensor([2, 4, 3]))),
    Awkward("attention", Attention, _image(2, 5, 8)),
    Awkward("hand-written attention", HandAttention, _image(2, 5, 8)),
    Awkward("embedding", Embedded, _tokens(12)),
    Awkward("unused parameter", Unused, _image(4, 6)),
    Awkward("conv1d", Convolution1d, _image(2, 3, 9)),
    Awkward("conv3d", Convolution3d, _image(2, 2, 3, 5, 5)),
    Awkward("transposed convolution", Transposed, _image(2, 4, 3, 3)),
    Awkward("weight norm", WeightNormed, _image(2, 4, 6)),
    Awkward("half precision", lambda: HalfPrecision(torch.float16), lambda: (torch.randn(2, 2, 6, 6).half(),)),
    Awkward("bfloat16", lambda: HalfPrecision(torch.bfloat16), lambda: (torch.randn(2, 2, 6, 6).bfloat16(),)),
)

BY_NAME: Mapping[str, Awkward] = {network.name: network for network in NETWORKS}
