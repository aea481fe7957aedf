"""The vanilla recurrent network, written as its equations.

Goodfellow, Bengio & Courville, "Deep Learning", 2016, equations 10.8 to 10.11:

a = b + W h + U x,  h = tanh a,  o = c + V h,  ŷ = softmax o,  loss = sum over steps of -log ŷ[y].
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.zoo.characters import SYMBOLS


class CharRNN(nn.Module):
    """A recurrent network over one-hot characters.

    Shapes: symbols (N, steps) int64 in, o (N, steps, symbols) out.

    Args:
        symbols: size of the alphabet.
        hidden: units of h.
    """

    def __init__(self, symbols: int = SYMBOLS, hidden: int = 256) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.empty(hidden, symbols))
        self.W = nn.Parameter(torch.empty(hidden, hidden))
        self.b = nn.Parameter(torch.zeros(hidden))
        self.V = nn.Parameter(torch.empty(symbols, hidden))
        self.c = nn.Parameter(torch.zeros(symbols))
        for weight in (self.U, self.V):
            nn.init.xavier_uniform_(weight)
        nn.init.orthogonal_(self.W)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return o at every step; h is zero before the first."""
        x = F.one_hot(symbols, self.U.shape[1]).to(self.U.dtype)
        h = self.b.new_zeros(len(symbols), len(self.b))
        states = []
        for step in x.unbind(1):
            a = self.b + F.linear(h, self.W) + F.linear(step, self.U)
            h = torch.tanh(a)
            states.append(h)
        return self.c + F.linear(torch.stack(states, 1), self.V)

    def probabilities(self, symbols: Tensor) -> Tensor:
        """Return ŷ = softmax o at every step."""
        return torch.softmax(self(symbols), dim=-1)


def summed_loss(o: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over all steps of -log softmax(o)[target], in nats."""
    return F.cross_entropy(o.flatten(0, -2), targets.flatten(), reduction="sum")
