"""The hidden units of Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 6.3.

Rectified linear units and their three generalisations g(z) = max(0, z) + a·min(0, z): absolute value (a = -1), leaky
(a small and fixed, 0.01) and parametric (a learned); and the sigmoid and the hyperbolic tangent.
"""

from typing import Literal, assert_never

from torch import Tensor, nn

Hidden = Literal["relu", "absolute", "leaky", "prelu", "sigmoid", "tanh"]


class Absolute(nn.Module):
    """g(z) = |z|."""

    def forward(self, z: Tensor) -> Tensor:
        """Return the absolute value of each number."""
        return z.abs()


def hidden_unit(kind: Hidden) -> nn.Module:
    """Return a new hidden unit of the given kind."""
    match kind:
        case "relu":
            return nn.ReLU()
        case "absolute":
            return Absolute()
        case "leaky":
            return nn.LeakyReLU(0.01)
        case "prelu":
            return nn.PReLU()
        case "sigmoid":
            return nn.Sigmoid()
        case "tanh":
            return nn.Tanh()
        case _:
            assert_never(kind)
