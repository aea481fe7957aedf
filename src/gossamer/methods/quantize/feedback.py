"""Rounding a matrix to whole steps with error feedback, each element at the cheapest of error and bits.

An error e of row r of a matrix raises the loss by ½ g_r e H eᵀ, g_r the curvature in its output and H the second moment
of its inputs. What is not rounded yet makes up for what is: with H⁻¹ = UᵀU, U upper triangular, the error e of one
column moves the later columns by -e U_c,later / U_cc (Frantar et al., "GPTQ", ICLR 2023, arXiv 2210.17323). Feeding
errors down the rows as well, by the off-diagonal of the curvature, was tried and made nothing smaller at the same loss.
After that an element adds ½ g_r h_c (w - q)², g_r and h_c being what is left of the
curvature once all later ones are free, and takes the whole number with the least of that plus λ times its bits
(Conzelmann and Bamler 2025, arXiv 2505.18758).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossamer.codings.rates import Rates

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]

_TOGETHER = 64  # columns whose errors are gathered before they move the columns after them


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

    @cached_property
    def _factor(self) -> tuple[Matrix, Matrix]:
        H = self.moment
        extra = self.damping * (float(H.mean() if H.ndim == 1 else H.diagonal().mean()) or 1.0)
        if H.ndim == 1:
            return np.zeros((0, 0)), H + extra
        inverse = np.linalg.inv(H + extra * np.eye(len(H)))
        U = np.linalg.cholesky((inverse + inverse.T) / 2).T
        diagonal: Matrix = np.asarray(U.diagonal(), np.float64)
        return np.asarray(U / diagonal[:, None], np.float64), diagonal**-2

    @property
    def moves(self) -> Matrix:
        """How an error moves what comes after it, (inputs, inputs): U_cl / U_cc; empty if nothing moves."""
        return self._factor[0]

    @property
    def left(self) -> Matrix:
        """Curvature in each input once all after it are free, (inputs,): 1 / U_cc²."""
        return self._factor[1]

    def distortion(self, error: Matrix) -> float:
        """Return ½ Σ g_r e_r H e_rᵀ, the rise of the loss, e_r being the rows of ``error``."""
        seen = error * self.moment if self.moment.ndim == 1 else error @ self.moment
        return 0.5 * float(self.curvature @ (seen * error).sum(1))


def rounded(part: Part, step: float, price: float, rates: Rates, free: NDArray[np.bool_]) -> Codes:
    """Return the whole numbers Q for which W is near ``step`` Q, by one sweep over the columns.

    Args:
        part: W and its curvature.
        step: distance of two levels.
        price: λ, what a bit is worth in units of the loss.
        rates: bits of each choice, shape of W.
        free: where a number may be other than zero, shape of W.
    """
    W, Q = part.weight.copy(order="F"), np.zeros(part.weight.shape, np.int64)
    inputs, moves, prices = W.shape[1], part.moves, _Prices.of(price, rates, free)
    for first in range(0, inputs, _TOGETHER):
        last = min(first + _TOGETHER, inputs)
        errors = np.empty((len(W), last - first), order="F")
        for c in range(first, last):
            picked = _cheapest(W[:, c], step, prices.column(c, 0.5 * part.left[c] * part.curvature))
            Q[:, c] = picked
            errors[:, c - first] = W[:, c] - step * picked
            if moves.size:
                W[:, c + 1 : last] -= np.outer(errors[:, c - first], moves[c, c + 1 : last])
        if moves.size:
            W[:, last:] -= errors @ moves[first:last, last:]
    return Q


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
    def of(cls, price: float, rates: Rates, free: NDArray[np.bool_]) -> "_Prices":
        """Return ``price`` times the bits; what is not free costs nothing at zero and no end elsewhere."""
        zero = np.where(free, price * rates.zero, -np.inf)
        below, above = price * rates.below, price * rates.above
        zero, below, above = (np.ascontiguousarray(bits.T) for bits in (zero, below, above))
        return cls(zero, below, above, np.append(np.inf, price * rates.distance))

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
