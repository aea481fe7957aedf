"""Numbers on a line with weights, summed up so that any run of them gives its mean and its cost at once.

What is near enough to be one point is one: equal numbers always; of many numbers, those that share a cell of a weighted
histogram, whose point is their weighted mean. A cell's own spread is the same whatever the clusters are, so the best
clusters of the points are the best of all that do not part a cell. Cells are cut from the bits of a float32: a cell of
the upper half (sign, exponent, seven bits of mantissa) is cut again the finer, the more of the weight is in it, so that
no cell is wider than 2^-12 of its values, nor holds much more than 2^-18 of the weight where that is spread evenly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

EXACT = 1 << 16
"""Up to so many numbers every distinct one is a point of its own."""
_HALF, _AIM = 1 << 16, 1 << 18
_CHUNK = 1 << 18
_LEAST_BITS = 5


@dataclass(frozen=True, eq=False)
class Points:
    """Points on a line.

    Attributes:
        at: sorted, all different, finite, at least one, (n,).
        weight: positive, (n,).
    """

    at: Floats
    weight: Floats

    @cached_property
    def _middle(self) -> int:
        return int(np.searchsorted(np.cumsum(self.weight), self.weight.sum() / 2))

    @cached_property
    def _sums(self) -> tuple[Floats, Floats, Floats]:
        """Sums of weight, weight times distance and weight times its square, from the middle outwards.

        Distances are those from the middle, and sums begin there: a point far out rounds no sum but those it is in.
        """
        distance = self.at - self.at[self._middle]
        parts = (self.weight, self.weight * distance, self.weight * distance**2)
        weight, first, second = (_outwards(part, self._middle) for part in parts)
        return weight, first, second

    def means(self, edges: Index) -> Floats:
        """Return the weighted mean of each run of points between neighbouring ``edges``; that of none is not a number.

        Args:
            edges: where runs begin and the last one ends, (runs + 1,).
        """
        weight, first, _ = self._sums
        with np.errstate(invalid="ignore"):
            distance = np.diff(first[edges]) / np.diff(weight[edges])
        return np.asarray(distance + self.at[self._middle])

    def cost(self, start: Index, stop: Index) -> Floats:
        """Return the weighted squared distance of the points from start to stop from their mean; 0 of none."""
        weight, first, second = (part[stop] - part[start] for part in self._sums)
        return np.maximum(second - first**2 / np.where(weight > 0, weight, 1), 0.0)

    def merged(self, edges: Index) -> "Points":
        """Return one point for each run between neighbouring ``edges``, its mean with its weight."""
        return Points(self.means(edges), np.add.reduceat(self.weight, edges[:-1]))


def summed(values: NDArray[Any], weights: NDArray[Any] | None = None, *, limit: int = 1) -> Points:
    """Return the points of the numbers that are not zero.

    Args:
        values: finite floats, 1-d, at least one that is not zero; of any order.
        weights: positive, as many; None for equal weights.
        limit: so many numbers at least are told apart: if there are no more distinct ones, every one is a point.
    """
    if values.size > EXACT:
        cells = _histogram(values, weights, 4 * limit)
        if cells.at.size > limit:
            return cells
    keep = values != 0
    at, place = np.unique(values[keep].astype(np.float64), return_inverse=True)
    weight = np.bincount(place, None if weights is None else weights[keep], at.size)
    return Points(at, weight.astype(np.float64))


def _outwards(values: Floats, middle: int) -> Floats:
    """Return prefix sums that are 0 before position ``middle``."""
    below, above = np.cumsum(values[:middle][::-1])[::-1], np.cumsum(values[middle:])
    return np.concatenate([-below, [0.0], above])


def _histogram(values: NDArray[Any], weights: NDArray[Any] | None, least: int) -> Points:
    """Return a point per cell that has a number which is not zero; two passes, memory for the cells only."""
    coarse = np.zeros(_HALF)
    for part, heavy in _chunks(values, weights):
        coarse += np.bincount(_bits(part) >> 16, heavy, _HALF)
    aim = max(_AIM, least)
    finer = np.ceil(np.log2(np.maximum(coarse / coarse.sum() * aim, 1))).astype(np.int64).clip(_LEAST_BITS, 16)
    sizes = np.where(coarse > 0, 1 << finer, 0)
    first, drop = np.cumsum(sizes) - sizes, (16 - finer).astype(np.uint32)
    weight, total = np.zeros(sizes.sum()), np.zeros(sizes.sum())
    for part, heavy in _chunks(values, weights):
        bits = _bits(part)
        upper = bits >> 16
        cell = first[upper] + ((bits & 0xFFFF) >> drop[upper])
        weight += np.bincount(cell, heavy, weight.size)
        total += np.bincount(cell, part if heavy is None else part * heavy, weight.size)
    there = np.flatnonzero(weight)
    at = total[there] / weight[there]
    order = np.argsort(at)
    return Points(at[order], weight[there][order])


def _chunks(values: NDArray[Any], weights: NDArray[Any] | None) -> Iterator[tuple[NDArray[Any], Floats | None]]:
    """Yield the numbers that are not zero, in parts, with their weights."""
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK]
        heavy = None if weights is None else weights[start : start + _CHUNK].astype(np.float64)
        if part.all():
            yield part, heavy
        else:
            yield part[part != 0], None if heavy is None else heavy[part != 0]


def _bits(values: NDArray[Any]) -> NDArray[np.uint32]:
    return values.astype(np.float32, copy=False).view(np.uint32)
