"""Trellis-coded (dependent) quantization with error feedback: which of two grids an element is on, those before it say.

Both grids have steps of 2Δ: the first the even multiples of Δ, the second the odd ones and zero (`codings.paths`).
Together they are as fine as Δ, but an element costs the bits of a grid of 2Δ; at high rate and with four states the
error is 0.99 dB less for the same bits (Marcellin and Fischer, "Trellis Coded Quantization of Memoryless and
Gauss-Markov Sources", IEEE Trans. Communications 38, 1990). The two grids and the states are those of dependent
quantization in video and network coding (Schwarz et al., "Hybrid Video Coding with Trellis-Coded Quantization", DCC
2019; Haase et al., "Dependent Scalar Quantization for Neural Network Compression", ICIP 2020).

Each row of a matrix is a path through the columns, found by the Viterbi algorithm. Errors are fed back (`feedback`), so
what an element should be depends on the path: every survivor carries its own row of what is not rounded yet.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossamer.codings.paths import BEFORE, FIRST, GRIDS, STATES, values_on
from gossamer.codings.rates import Rates
from gossamer.methods.quantize.feedback import Band, Codes, Matrix, by_bands

_TOGETHER = 32  # columns after which errors move the columns beyond them
_SECOND = np.array(GRIDS)[:, None]


def traced(bands: Sequence[Band], step: float, price: float, rates: Rates, free: NDArray[np.bool_]) -> Codes:
    """Return the indices K that stand for what makes W near ``step`` times it, by one sweep over the columns.

    Args:
        bands: of W, which they make up.
        step: Δ, the distance of two levels of both grids together.
        price: λ, what a bit is worth in units of the loss.
        rates: bits of each index, shape of W.
        free: where an index may be other than zero, shape of W.
    """

    def solved(band: Band, costs: Rates, kept: NDArray[np.bool_]) -> Codes:
        return _traced(band, step, _Prices.of(price, costs, kept, 0.5 * band.worth * step * step))

    return by_bands(solved, bands, rates, free)


def _traced(band: Band, step: float, prices: "_Prices") -> Codes:
    rows, inputs = band.start.shape
    W = np.repeat(band.start[None], STATES, axis=0)
    spent = np.full((STATES, rows), np.inf)
    spent[FIRST] = 0.0
    origins = np.empty((inputs, STATES, rows), np.int8)
    indices = np.empty((inputs, STATES, rows), np.int32)
    every = np.arange(rows)
    for first in range(0, inputs, _TOGETHER):
        last = min(first + _TOGETHER, inputs)
        errors = []
        for c in range(first, last):
            wanted = W[:, :, c]
            choice = prices.cheapest(c, wanted / step, 0.5 * band.left[c] * band.curvature * step * step)
            spent, origin, index = _survivors(spent, choice)
            missed = wanted[origin, every] - step * values_on(index, _SECOND[origin, 0])
            if band.moves.size:
                kept = W[origin, every, c + 1 : last]
                W[:, :, c + 1 : last] = kept - missed[:, :, None] * band.moves[c, c + 1 : last]
            origins[c], indices[c] = origin, index
            errors.append(missed)
        if band.moves.size and last < inputs:
            source, missed = _back(errors, origins[first:last])
            W[:, :, last:] = W[source, every, last:] - missed @ band.moves[first:last, last:]
    return _path(spent.argmin(0), origins, indices)


class _Choice(NamedTuple):
    """The best index of each parity for each state, and what it costs: (parities, states, rows)."""

    indices: Codes
    cost: Matrix


def _survivors(spent: Matrix, choice: _Choice) -> tuple[Matrix, NDArray[np.int8], Codes]:
    """Return, for each state after a column, what its best path costs, the state before, and the index between."""
    sums = spent + choice.cost
    total, origin, index = np.empty_like(spent), np.empty(spent.shape, np.int8), np.empty(spent.shape, np.int64)
    for state, ((one, even), (other, odd)) in enumerate(BEFORE):
        better = sums[odd, other] < sums[even, one]
        total[state] = np.where(better, sums[odd, other], sums[even, one])
        origin[state] = np.where(better, other, one)
        index[state] = np.where(better, choice.indices[odd, other], choice.indices[even, one])
    return total, origin, index


def _back(errors: list[Matrix], origins: NDArray[np.int8]) -> tuple[NDArray[np.int8], Matrix]:
    """Return the state in which each survivor began a block, and its errors there, (states, rows, columns)."""
    states, rows = origins.shape[1:]
    source = np.repeat(np.arange(states, dtype=np.int8)[:, None], rows, axis=1)
    every = np.arange(rows)
    missed = np.empty((states, rows, len(errors)))
    for c in reversed(range(len(errors))):
        missed[:, :, c] = errors[c][source, every]
        source = origins[c][source, every]
    return source, missed


def _path(state: NDArray[np.int64], origins: NDArray[np.int8], indices: NDArray[np.int32]) -> Codes:
    """Return the indices of the path that ends in ``state`` in each row."""
    every = np.arange(state.size)
    K = np.empty((state.size, len(origins)), np.int64)
    for c in reversed(range(len(origins))):
        K[:, c] = indices[c, state, every]
        state = origins[c, state, every]
    return K


class _Prices(NamedTuple):
    """Prices of bits, a column of the matrix in a row; of distances two tables, one for each grid."""

    zero: Matrix
    below: Matrix
    above: Matrix
    distance: Matrix
    top: int

    @classmethod
    def of(cls, price: float, rates: Rates, free: NDArray[np.bool_], less: float) -> "_Prices":
        """Return ``price`` times the bits, ``less`` times the squared value off; what is not free stays zero."""
        zero = np.ascontiguousarray((price * rates.zero).T)
        below, above = (
            np.ascontiguousarray(np.where(free, price * bits, np.inf).T) for bits in (rates.below, rates.above)
        )
        k = np.arange(len(rates.distance) + 1)
        bits = np.append(np.inf, price * rates.distance)
        distance = np.stack([bits - less * values_on(k, np.array(grid)) ** 2 for grid in (0, 1)])
        return cls(zero, below, above, distance, len(rates.distance))

    def cheapest(self, c: int, x: Matrix, error: Matrix) -> _Choice:
        """Return the cheapest index of each parity for each state, where column ``c`` should be ``x`` Δ.

        Args:
            c: the column.
            x: (states, rows).
            error: price of an error of Δ, (rows,).
        """
        size, bits = np.abs(x), np.where(x > 0, self.above[c], self.below[c])
        index, cost = np.empty((2, *x.shape), np.int64), np.empty((2, *x.shape))
        for parity in (0, 1):
            near = parity + 2 * np.maximum(np.rint(((size + _SECOND) / 2 - parity) / 2), 0).astype(np.int64)
            near = np.minimum(near, self.top - (self.top - parity) % 2)
            lower = np.maximum(near - 2, parity)
            high, low = (error * (size - values_on(k, _SECOND)) ** 2 + self.distance[_SECOND, k] for k in (near, lower))
            index[parity] = np.where(low < high, lower, near)
            cost[parity] = np.minimum(high, low) + bits
        nothing = error * x * x + self.zero[c]
        some = cost[0] < nothing
        index[0] *= some
        cost[0] = np.where(some, cost[0], nothing)
        return _Choice(np.where(x < 0, -index, index), cost)
