"""Rounding a matrix to whole steps with error feedback, each element at the cheapest of error and bits.

An error e of row r of a matrix raises the loss by ½ g_r e H eᵀ, g_r the curvature in its output and H the second moment
of its inputs. What is not rounded yet makes up for what is: with H⁻¹ = UᵀU, U upper triangular, the error e of one
column moves the later columns by -e U_c,later / U_cc (Frantar et al., "GPTQ", ICLR 2023, arXiv 2210.17323). Feeding
errors down the rows as well, by the off-diagonal of the curvature, was tried and made nothing smaller at the same loss.
After that an element adds ½ g_r h_c (w - q)², g_r and h_c being what is left of the
curvature once all later ones are free, and takes the whole number with the least of that plus λ times its bits.

What is free to make up for errors would grow without end, and its bits with it. So later weights are taken to cost
bits too, as under a normal distribution: ½ γ w², γ = 1 / (ln 2 · Var w). With H' = H + λ γ / g_r and weights that start
at W H H'⁻¹ that is a square again, and an element's bits count less the ½ γ q² that stood for them (Conzelmann and
Bamler 2025, arXiv 2505.18758, with g_r = 1). Rows of alike g_r go together, at their geometric mean. It takes a
quarter off the whole cost of the first layer of LeNet-300-100.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.codings.rates import Rates
from gossamer.model import Moment

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]

_TOGETHER = 64  # columns whose errors are gathered before they move the columns after them
_BANDED = 2048  # more inputs than these make one band, for a band has a factor of H of its own
_NONE: Matrix = np.zeros((0, 0))
_MOST_PRIOR = 1e6
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Part:
    """A matrix W, float64 (outputs, inputs), and how the loss depends on it.

    Attributes:
        weight: W.
        curvature: g, the curvature of the loss in each output, (outputs,).
        moment: H, (inputs, inputs), or its diagonal, (inputs,).
        damping: share of the mean diagonal of H that is added to its diagonal before errors are fed back.
    """

    weight: Matrix
    curvature: Matrix
    moment: Matrix
    damping: float

    def distortion(self, error: Matrix) -> float:
        """Return ½ Σ g_r e_r H e_rᵀ, the rise of the loss, e_r being the rows of ``error``."""
        seen = error * self.moment if self.moment.ndim == 1 else error @ self.moment
        return 0.5 * float(self.curvature @ (seen * error).sum(1))

    def bands(self, price: float, share: float = 1.0) -> "list[Band]":
        """Return rows of alike curvature, weights that are not rounded yet costing bits worth ``price`` each.

        Args:
            price: λ; 0 for bits that do not count.
            share: of the weights, how many may be other than zero.
        """
        variance = float(np.square(self.weight).mean()) / max(share, 1 / self.weight.size)
        worth = price / (math.log(2) * variance) if variance else 0.0
        octave = np.floor(np.log2(np.maximum(self.curvature, _TINY)))
        if len(self.moment) > _BANDED:
            octave[:] = 0
        return [self._band(np.flatnonzero(octave == one), worth) for one in np.unique(octave)]

    def _band(self, rows: NDArray[np.int64], worth: float) -> "Band":
        W, g, H = self.weight[rows], self.curvature[rows], self.moment
        mean = float((H if H.ndim == 1 else H.diagonal()).mean())
        prior = worth / math.exp(float(np.log(np.maximum(g, _TINY)).mean()))
        prior = min(prior, _MOST_PRIOR * mean)  # rows that the loss hardly depends on would have no end of it
        extra = self.damping * (mean + prior or 1.0)
        if H.ndim == 1:
            return Band(rows, W * (H / np.maximum(H + prior, _TINY)), g, _NONE, H + prior + extra, worth)
        known = H + prior * np.eye(len(H))
        start: Matrix = np.asarray(np.linalg.solve(known, H @ W.T).T if prior else W, np.float64)
        inverse = np.linalg.inv(known + extra * np.eye(len(H)))
        U = np.linalg.cholesky((inverse + inverse.T) / 2).T
        diagonal: Matrix = np.asarray(U.diagonal(), np.float64)
        return Band(rows, start, g, np.asarray(U / diagonal[:, None], np.float64), diagonal**-2, worth)


@dataclass(frozen=True, eq=False)
class Band:
    """Some rows of a part, ready to be rounded.

    Attributes:
        rows: which.
        start: where their weights start, (rows, inputs).
        curvature: g, (rows,).
        moves: how an error moves what comes after it, (inputs, inputs): U_cl / U_cc; empty if nothing moves.
        left: curvature in each input once all after it are free, (inputs,): 1 / U_cc².
        worth: λ γ, of which half for each squared weight stood for its bits.
    """

    rows: NDArray[np.int64]
    start: Matrix
    curvature: Matrix
    moves: Matrix
    left: Matrix
    worth: float

    def swept(self, pick: Callable[[int, Matrix], Matrix]) -> Matrix:
        """Return what ``pick`` makes of one column after another, each moved by the errors of those before it.

        Args:
            pick: given the number of a column and what it is by then, (rows,), returns what it is from then on.
        """
        W, inputs, moves = self.start.copy(order="F"), self.start.shape[1], self.moves
        for first in range(0, inputs, _TOGETHER):
            last = min(first + _TOGETHER, inputs)
            errors = np.empty((len(W), last - first), order="F")
            for c in range(first, last):
                wanted = W[:, c].copy()
                W[:, c] = pick(c, wanted)
                errors[:, c - first] = wanted - W[:, c]
                if moves.size:
                    W[:, c + 1 : last] -= np.outer(errors[:, c - first], moves[c, c + 1 : last])
            if moves.size:
                W[:, last:] -= errors @ moves[first:last, last:]
        return W


def covered(weight: Tensor, moments: Sequence[Moment]) -> bool:
    """Return whether every element of ``weight`` is in exactly one of the parts whose inputs are known."""
    count, zero = torch.zeros_like(weight), torch.zeros_like(weight)
    for moment in moments:
        count += moment.layout.put(zero, torch.ones_like(moment.layout.matrix(weight)))
    return bool((count == 1).all())


def rounded(bands: Sequence[Band], step: float, price: float, rates: Rates, free: NDArray[np.bool_]) -> Codes:
    """Return the whole numbers Q for which W is near ``step`` Q, by one sweep over the columns.

    Args:
        bands: of W, which they make up.
        step: distance of two levels.
        price: λ, what a bit is worth in units of the loss.
        rates: bits of each choice, shape of W.
        free: where a number may be other than zero, shape of W.
    """

    def solved(band: Band, costs: Rates, kept: NDArray[np.bool_]) -> Matrix:
        prices = _Prices.of(price, costs, kept, 0.5 * band.worth * step * step)

        def cheapest(c: int, w: Matrix) -> Matrix:
            return step * _cheapest(w, step, prices.column(c, 0.5 * band.left[c] * band.curvature))

        return np.asarray(np.rint(band.swept(cheapest) / step), np.float64)

    return by_bands(solved, bands, rates, free)


def by_bands(
    solved: Callable[[Band, Rates, NDArray[np.bool_]], NDArray[Any]],
    bands: Sequence[Band],
    rates: Rates,
    free: NDArray[np.bool_],
) -> Codes:
    """Return the codes that ``solved`` gives the rows of each band, of its rates and of where a code may be."""
    codes = np.zeros(rates.zero.shape, np.int64)
    for band in bands:
        codes[band.rows] = solved(band, rates.of_rows(band.rows), free[band.rows])
    return codes


class _Column(NamedTuple):
    """What the numbers of one column cost: of an error of one, of zero, of a sign, of a distance from zero."""

    error: Matrix
    zero: Matrix
    below: Matrix
    above: Matrix
    distance: Matrix


@dataclass(frozen=True)
class _Prices:
    """Prices of bits, a column of the matrix in a row."""

    zero: Matrix
    below: Matrix
    above: Matrix
    distance: Matrix

    @classmethod
    def of(cls, price: float, rates: Rates, free: NDArray[np.bool_], less: float) -> "_Prices":
        """Return ``price`` times the bits, ``less`` times the squared distance off; what is not free stays zero."""
        zero = np.where(free, price * rates.zero, -np.inf)
        below, above = price * rates.below, price * rates.above
        zero, below, above = (np.ascontiguousarray(bits.T) for bits in (zero, below, above))
        distance = price * rates.distance - less * np.arange(1.0, len(rates.distance) + 1) ** 2
        return cls(zero, below, above, np.append(np.inf, distance))

    def column(self, c: int, error: Matrix) -> _Column:
        """Return the prices of column ``c``, an error of one having the price ``error``."""
        return _Column(error, self.zero[c], self.below[c], self.above[c], self.distance)


def _cheapest(w: Matrix, step: float, prices: _Column) -> Matrix:
    """Return the cheapest of zero and the two whole numbers about each w / step, as floats."""
    x = w / step
    size = np.abs(x)
    m = prices.error * (step * step)
    near = np.minimum(size + 0.5, len(prices.distance) - 1).astype(np.int64)
    lower = np.maximum(near - 1, 0)
    high = m * (size - near) ** 2 + prices.distance[near]
    low = m * (size - lower) ** 2 + prices.distance[lower]
    bits = np.where(x > 0, prices.above, prices.below)
    kept = np.minimum(high, low) + bits < m * x * x + prices.zero
    return np.asarray(np.copysign(np.where(low < high, lower, near) * kept, x))
