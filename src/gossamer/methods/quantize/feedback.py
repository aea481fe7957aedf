"""Rounding a matrix to whole steps with error feedback on both sides, each element at the cheapest of error and bits.

A change E = W - Ŵ of a matrix raises the loss by ½ tr(G E H Eᵀ), G the curvature in its outputs and H the second moment
of its inputs. What is not rounded yet makes up for what is: with H⁻¹ = UᵀU, U upper triangular, the error e of one
column moves the later columns by -e U_c,later / U_cc (Frantar et al., "GPTQ", ICLR 2023, arXiv 2210.17323), and G does
the same down the rows (Tseng, Sun and De Sa, "Model-Preserving Adaptive Rounding", 2025, arXiv 2505.22988, for a
Kronecker-factored Hessian). After that an element adds ½ g_r h_c (w - q)², g_r and h_c being what is left of the
curvature once all later ones are free, and takes the whole number with the least of that plus λ times its bits
(Conzelmann and Bamler 2025, arXiv 2505.18758).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gossamer.codings.rates import Rates

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]

_TOGETHER = 64  # columns whose errors are gathered before they move the columns after them


@dataclass(frozen=True)
class Side:
    """How errors on one side, rows or columns, move what comes later.

    Attributes:
        moves: (n, n), unit upper triangular, of the blocks: error e of a block moves later ones by -eᵀ moves.
        left: (n,), curvature of each element once all that comes after its block is free.
        block: elements rounded at once, which do not make up for each other.
    """

    moves: Matrix
    left: Matrix
    block: int

    @classmethod
    def of(cls, curvature: Matrix, damping: float, block: int = 1) -> "Side":
        """Factorize a positive semidefinite matrix, or take a vector as the diagonal of one.

        Args:
            curvature: (n, n) or (n,).
            damping: share of the mean diagonal that is added to the diagonal.
            block: elements rounded at once.
        """
        if curvature.ndim == 1:
            mean = float(curvature.mean()) or 1.0
            return cls(np.zeros((0, 0)), curvature + damping * mean, len(curvature))
        n = len(curvature)
        mean = float(curvature.diagonal().mean()) or 1.0
        inverse = np.linalg.inv(curvature + damping * mean * np.eye(n))
        U = np.linalg.cholesky((inverse + inverse.T) / 2).T
        moves, left = np.eye(n), np.empty(n)
        for first in range(0, n, block):
            some = slice(first, min(first + block, n))
            own = np.linalg.inv(U[some, some])
            moves[some, some.stop :] = own @ U[some, some.stop :]
            left[some] = (own @ own.T).diagonal()
        return cls(moves, left, block)

    @property
    def plain(self) -> bool:
        """Whether nothing moves anything."""
        return self.moves.size == 0


@dataclass(frozen=True, eq=False)
class Part:
    """A matrix W, float64 (outputs, inputs), and how the loss depends on it.

    Attributes:
        weight: W.
        curvature: G, (outputs, outputs) or its diagonal.
        moment: H, (inputs, inputs) or its diagonal.
        damping: share of the mean diagonal added to both.
        block: rows rounded at once.
    """

    weight: Matrix
    curvature: Matrix
    moment: Matrix
    damping: float
    block: int

    @cached_property
    def rows(self) -> Side:
        """The side of the outputs."""
        return Side.of(self.curvature, self.damping, self.block)

    @cached_property
    def columns(self) -> Side:
        """The side of the inputs."""
        return Side.of(self.moment, self.damping)

    def distortion(self, error: Matrix) -> float:
        """Return ½ tr(G E Hᵀ Eᵀ), the rise of the loss, for E = ``error``."""
        left = self.curvature @ error if self.curvature.ndim == 2 else self.curvature[:, None] * error
        right = error @ self.moment if self.moment.ndim == 2 else error * self.moment
        return 0.5 * float((left * right).sum())


def rounded(part: Part, step: float, price: float, rates: Rates, free: NDArray[np.bool_]) -> Codes:
    """Return the whole numbers Q for which W is near ``step`` Q, by one sweep over the columns.

    Args:
        part: W and its curvature.
        step: distance of two levels.
        price: λ, what a bit is worth in units of the loss.
        rates: bits of each choice, shape of W.
        free: where a number may be other than zero, shape of W.
    """
    W, Q = part.weight.copy(), np.zeros(part.weight.shape, np.int64)
    rows, columns = part.rows, part.columns
    inputs = W.shape[1]
    for first in range(0, inputs, _TOGETHER):
        last = min(first + _TOGETHER, inputs)
        errors = np.empty((len(W), last - first))
        for c in range(first, last):
            weigh = _Choice(0.5 * columns.left[c] * step * step, price, rates, free, c)
            error = _column(W[:, c], Q[:, c], rows, step, weigh)
            errors[:, c - first] = error
            if not columns.plain:
                W[:, c + 1 : last] -= np.outer(error, columns.moves[c, c + 1 : last])
        if not columns.plain:
            W[:, last:] -= errors @ columns.moves[first:last, last:]
    return Q


@dataclass(frozen=True)
class _Choice:
    """Choice of whole numbers for one column.

    Attributes:
        weight: ½ h_c step², the price of a squared error of one step but for g_r.
        price: λ.
        rates: bits.
        free: where not only zero may stand.
        column: c.
    """

    weight: float
    price: float
    rates: Rates
    free: NDArray[np.bool_]
    column: int

    def __call__(self, x: Matrix, left: Matrix, some: slice) -> Matrix:
        """Return the cheapest of zero and the two whole numbers about each x, as floats."""
        c, far = self.column, self.rates.distance
        m = self.weight * left
        near = np.minimum(np.rint(np.abs(x)), len(far)).astype(np.int64)
        lower = np.maximum(near - 1, 0)
        sign = np.sign(x)
        bits = np.where(sign > 0, self.rates.above[some, c], self.rates.below[some, c])
        size = np.abs(x)
        none = m * x * x + self.price * self.rates.zero[some, c]
        found = [
            np.where(k > 0, m * (size - k) ** 2 + self.price * (bits + far[k - 1]), np.inf) for k in (near, lower)
        ]
        best = np.where(found[1] < found[0], lower, near)
        keep = (np.minimum(*found) < none) & self.free[some, c]
        return np.where(keep, best * sign, 0.0)


def _column(w: Matrix, q: Codes, rows: Side, step: float, choose: _Choice) -> Matrix:
    """Round the column ``w`` in place of ``q``, block by block, and return the error that later columns see."""
    error = np.empty_like(w)
    for first in range(0, len(w), rows.block):
        some = slice(first, min(first + rows.block, len(w)))
        picked = choose(w[some] / step, rows.left[some], some)
        q[some] = picked
        error[some] = w[some] - picked * step
        if some.stop < len(w):
            w[some.stop :] -= error[some] @ rows.moves[some, some.stop :]
    return error if rows.plain else error @ rows.moves
