"""Multi-layer perceptrons with every common hidden unit, and the XOR network solved by hand.

Goodfellow, Bengio and Courville, "Deep Learning", MIT Press 2016: hidden units §6.3, the XOR example §6.1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Unit = Literal["relu", "absolute", "leaky", "prelu", "sigmoid", "tanh"]


class Absolute(nn.Module):
    """Absolute value rectification, g(z) = |z|."""

    def forward(self, z: Tensor) -> Tensor:
        """Return |z|, elementwise."""
        return z.abs()


def unit(name: Unit) -> nn.Module:
    """Return the hidden unit: ReLU, absolute value, leaky ReLU (slope 0.01), PReLU (learned slope), sigmoid or tanh."""
    units: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "absolute": Absolute,
        "leaky": nn.LeakyReLU,
        "prelu": nn.PReLU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
    }
    return units[name]()


class Perceptron(nn.Module):
    """Dense layers of the given sizes with a hidden unit between them; the input is flattened.

    Args:
        sizes: input, hidden and output sizes.
        hidden: the hidden unit.
        log_softmax: return log-probabilities, for the negative log-likelihood, instead of logits.
    """

    def __init__(self, sizes: Sequence[int], hidden: Unit = "relu", *, log_softmax: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(sizes)):
            if number:
                self.layers.append(unit(hidden))
            self.layers.append(nn.Linear(before, after))
        if log_softmax:
            self.layers.append(nn.LogSoftmax(dim=-1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs of shape ``(N, sizes[-1])``."""
        return self.layers(inputs.flatten(1))  # type: ignore[no-any-return]


XOR_INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
XOR_TARGETS = torch.tensor([[0.0], [1.0], [1.0], [0.0]])


def xor_by_hand() -> Perceptron:
    """Return the 2-2-1 ReLU network f(x) = wᵀ max(0, Wᵀx + c) + b that is exact on the four points of XOR."""
    network = Perceptron((2, 2, 1))
    first, last = network.layers[0], network.layers[2]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))  # type: ignore[operator]
        first.bias.copy_(torch.tensor([0.0, -1.0]))  # type: ignore[operator]
        last.weight.copy_(torch.tensor([[1.0, -2.0]]))  # type: ignore[operator]
        last.bias.zero_()  # type: ignore[operator]
    return network


def xor_by_least_squares() -> nn.Linear:
    """Return the best linear model of XOR by the normal equations: w = 0 and b = 1/2, so 0.5 everywhere."""
    rows = torch.cat([XOR_INPUTS, torch.ones(4, 1)], dim=1)
    solution = torch.linalg.solve(rows.T @ rows, rows.T @ XOR_TARGETS)
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(solution[:2].T)
        network.bias.copy_(solution[2])
    return network


def xor_by_gradient_descent(seed: int = 0, steps: int = 2000, lr: float = 0.1) -> Perceptron:
    """Return a 2-2-1 ReLU network found by full-batch gradient descent on the squared error.

    Two ReLU units leave poor local minima, so starts are drawn from ``seed`` on until one ends below 1e-6.
    """
    network = Perceptron((2, 2, 1))
    generator = torch.Generator().manual_seed(seed)
    error = torch.tensor(1.0)
    while error > 1e-6:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for _ in range(steps):
            error = (network(XOR_INPUTS) - XOR_TARGETS).square().mean()
            gradients = torch.autograd.grad(error, list(network.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                    parameter.sub_(lr * gradient)
    return network
