"""Rounding up or down as something that trains: a number between 0 and 1 for each weight, driven to one of its ends.

Nagel, Amjad, van Baalen, Louizos and Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML
2020 (arXiv 2004.10568), equations 22 to 24: a weight is s · clip(⌊w / s⌋ + h(V)), h the rectified sigmoid
clip(σ(V) (ζ - γ) + γ, 0, 1) with ζ = 1.1 and γ = -0.1 (Louizos, Welling and Kingma 2018), and Σ 1 - |2h - 1|^β draws
every h to 0 or 1. β falls from 20 to 2, so that at first only what is near an end is drawn there.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from gossamer.model import Grid

ZETA: Final = 1.1
GAMMA: Final = -0.1
BETAS: Final = (20.0, 2.0)


def rectified(v: Tensor) -> Tensor:
    """Return h(V): the sigmoid stretched to reach from γ to ζ, clipped to 0 to 1."""
    return (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def unrectified(h: Tensor) -> Tensor:
    """Return the V of which h(V) is ``h``, between 0 and 1."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


def undecided(h: Tensor, beta: float) -> Tensor:
    """Return Σ 1 - |2h - 1|^β, which is zero where every h is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def sharpness(step: int, total: int, warmup: float) -> float | None:
    """Return β at ``step`` of ``total``; None during the first ``warmup`` share of it, when nothing is drawn yet.

    It falls along half a cosine, as in the authors' own implementation.
    """
    first = warmup * total
    if step < first:
        return None
    high, low = BETAS
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * (step - first) / (total - first)))


class Rounding:
    """One weight tensor on its grid, each value between the code below it and the one above.

    Args:
        weight: values, any float dtype.
        grid: their levels.
        keep: where values may be other than zero, or None for everywhere.
    """

    def __init__(self, weight: Tensor, grid: Grid, keep: Tensor | None = None) -> None:
        at = [1] * weight.ndim
        if grid.axis is not None:
            at[grid.axis] = -1
        self.scale = grid.scale.view(at)
        self.zero = grid.zero.float().view(at)
        self.low, self.high = grid.codes_range
        self.keep = keep
        exact = weight.detach().cpu().float() / self.scale
        self.below = exact.floor()
        self.v = nn.Parameter(unrectified(exact - self.below))

    @property
    def soft(self) -> Tensor:
        """The values with h as it is: those of the weight at first, where the grid reaches them."""
        return self._at(rectified(self.v))

    @property
    def hard(self) -> Tensor:
        """The values with every h at its nearer end: levels of the grid."""
        return self._at((rectified(self.v.detach()) >= 0.5).float())

    @property
    def h(self) -> Tensor:
        """How far up each value is."""
        return rectified(self.v)

    def _at(self, h: Tensor) -> Tensor:
        codes = (self.below + h + self.zero).clamp(self.low, self.high)
        values = (codes - self.zero) * self.scale
        return values if self.keep is None else torch.where(self.keep, values, 0)
