"""The walk over a matrix of whole numbers that the blended model takes, the same when writing and when reading.

A step is one row of the walked matrix, a lane one column. The outline gives each element a mean and a deviation; errors
of the neighbours, weighted as the writer found best, move the mean. An element is then a series of decisions: is it
zero, is it above zero, has its magnitude 2, 3 .. bits, and the lower bits from the top. Each is predicted from bell
curves, with the deviation of the outline and with one that the neighbours' errors have widened or narrowed, and from
how such decisions went before; logistic mixing (`logistic`, after Mahoney 2005) joins the predictions.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from gossamer.coders.curves import SHAPES, TAIL_BITS, Shape, tail
from gossamer.coders.logistic import FLOOR, HALF, ONE, STRETCH, Counts, Mixer, bounded
from gossamer.coders.outline import UNIT
from gossamer.coders.stream import Array

LANES = 1 << 12  # lanes at a time
_NORMAL, _LOGISTIC = SHAPES[0], SHAPES[-1]
_LEVELS = 32  # of a probability
_RATIOS = np.array([64, 110, 160, 220, 290, 380, 520])  # edges between levels of the neighbours' errors, in 1/256
_CALM = 768  # what the outline's deviation counts for against the neighbours' errors, in 1/256
_WIDEST = 2048
_MEANS = 9  # levels of the mean
_BESIDE = 9  # levels of the neighbours' magnitudes
_MOST_NODES = 1 << 9
_SHARES = (0.25, 0.1, 0.3, 0.2, 0.2)  # first weights: the two curves, then the three tables
_RATE, _STRENGTH = 2, 6


class Code(Protocol):
    """Codes decisions one way or the other."""

    def __call__(self, chances: Array, step: int, lanes: Array, least: Array | int) -> Array:
        """Return whether ``lanes`` of ``step`` are at least ``least`` in magnitude; with 0, whether above zero."""


class Given(NamedTuple):
    """What is known before a walk.

    Attributes:
        means: (steps, lanes), in 1/64.
        deviations: (steps, lanes), in 1/64.
        lag: distance of the far neighbours.
        weights: of the errors one step back, ``lag`` back, one less, one more, and two back, in 1/64.
        below: the greatest magnitude below zero.
        above: the greatest above.
    """

    means: Array
    deviations: Array
    lag: int
    weights: tuple[int, ...]
    below: int
    above: int


class Node:
    """One kind of decision: tables of how it went before, and a mixer."""

    def __init__(self, nodes: int, near: int) -> None:
        self._tables = (Counts(nodes * _LEVELS, 1023), Counts(8 * _LEVELS, 255), Counts(near * _LEVELS, 255))
        self._mixer = Mixer(_SHARES, _RATE)

    def predict(self, curves: list[Array], *keys: Array | int) -> Array:
        """Return the chance of each element: mixed from curves and, at the keys, tables."""
        level = (STRETCH[curves[0] >> 4] + 2048) >> 7
        self._keys = [key * _LEVELS + level for key in keys]
        guesses = [
            table.predict(key, curves[0], _STRENGTH) for table, key in zip(self._tables, self._keys, strict=True)
        ]
        return self._mixer.mix([*curves, *guesses])

    def see(self, bits: Array) -> None:
        """Learn what happened."""
        self._mixer.see(bits)
        for table, key in zip(self._tables, self._keys, strict=True):
            table.see(key, bits)


class Decisions:
    """The state of a walk: what was seen, and what it taught."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._back = given.lag + 1
        steps, lanes = given.means.shape
        self._values = np.zeros((steps + self._back, lanes), np.int32)  # the first rows stand before the walk
        self._errors = np.zeros((steps + self._back, lanes), np.int32)  # from the outline's mean, in 1/64
        self._sizes = np.full((steps + self._back, lanes), 256, np.int32)  # of what was left of them, in deviations
        longest = max(given.below, given.above, 1).bit_length()
        self._zero, self._sign = Node(1, 5 * _MEANS), Node(1, 81)
        self._longer = [Node(2, _BESIDE) for _ in range(longest)]
        self._lower = [Node(2 * min(1 << (longest - place), _MOST_NODES), _BESIDE) for place in range(longest)]

    def run(self, code: Code) -> Array:
        """Walk all steps and return the matrix of values (steps, lanes)."""
        steps, lanes = self._given.means.shape
        for step in range(steps):
            for start in range(0, lanes, LANES):
                self._element(code, step, slice(start, min(start + LANES, lanes)))
        return self._values[self._back :]

    def _element(self, code: Code, step: int, lanes: slice) -> None:
        """Code ``lanes`` of a step."""
        row, lag = step + self._back, self._given.lag
        rows = (row - 1, row - lag, row - lag + 1 if lag > 2 else row - 1, row - lag - 1, row - 2)
        first = self._given.means[step, lanes].astype(np.int64)
        deviation = self._given.deviations[step, lanes].astype(np.int64)
        mean = first.copy()
        for weight, at in zip(self._given.weights, rows, strict=True):
            if weight:
                mean += (weight * self._errors[at, lanes].astype(np.int64)) >> 6
        sizes = self._sizes[:, lanes]
        spread = (2 * sizes[rows[0]] + 2 * sizes[rows[1]] + sizes[rows[2]] + sizes[rows[4]]) // 6
        local = np.maximum(deviation * (_CALM + spread) // (256 + _CALM), 1)
        near = [self._values[at, lanes].astype(np.int64) for at in rows[:4]]
        level = np.searchsorted(_RATIOS, spread, side="right")
        curves = ((_NORMAL, deviation), (_LOGISTIC, local))
        one = _Elements(step, lanes.start, mean, curves, near, level)
        values = self._support(code, one)
        self._magnitudes(code, one, values)
        self._values[row, lanes] = values
        self._errors[row, lanes] = values * UNIT - first
        self._sizes[row, lanes] = np.minimum(np.abs(values * UNIT - mean) * 256 // deviation, _WIDEST)

    def _support(self, code: Code, one: "_Elements") -> Array:
        """Return -1, 0 or 1 for each element."""
        signs = [np.sign(part) for part in one.near]
        count = sum(np.abs(sign) for sign in signs)
        whole = np.full(one.mean.size, 1 << TAIL_BITS)
        everything = np.arange(one.mean.size)
        sides = (np.ones_like(everything), -np.ones_like(everything))
        above, below = (one.beyond(_Found(everything, side, side, side), 1) for side in sides)
        chances = [_share(up + down, whole) for up, down in zip(above, below, strict=True)]
        far = bounded(np.abs(one.mean) * 4 // one.curves[0][1], 0, _MEANS - 1)
        bits = code(
            self._zero.predict(chances, 0, one.level, count * _MEANS + far), one.step, everything + one.start, 1
        )
        self._zero.see(bits)
        at = np.flatnonzero(bits)
        if at.size == 0 or not self._given.below or not self._given.above:
            return np.asarray(bits * (1 if self._given.above else -1))
        chances = [_share(up[at], up[at] + down[at]) for up, down in zip(above, below, strict=True)]
        pattern = signs[0] * 27 + signs[1] * 9 + signs[2] * 3 + signs[3] + 40
        positive = code(self._sign.predict(chances, 0, one.level[at], pattern[at]), one.step, at + one.start, 0)
        self._sign.see(positive)
        values = np.zeros_like(bits)
        values[at] = 2 * positive - 1
        return values

    def _magnitudes(self, code: Code, one: "_Elements", values: Array) -> None:
        """Multiply the signs in ``values`` by the magnitudes they stand before."""
        at = np.flatnonzero(values)
        sign = values[at]
        found = _Found(at, sign, np.ones_like(at), np.where(sign > 0, self._given.above, self._given.below))
        length = np.ones_like(at)
        alive = np.flatnonzero(found.greatest >= 2)
        for bit in range(1, len(self._longer) + 1):
            if alive.size:
                alive = alive[self._longer_than(code, one, found.some(alive), bit) != 0]
                found.least[alive], length[alive] = 1 << bit, bit + 1
                alive = alive[found.greatest[alive] >= 2 << bit]
        for place in range(int(length.max(initial=1)) - 2, -1, -1):
            some = np.flatnonzero((length > place + 1) & (found.least + (1 << place) <= found.greatest))
            if some.size:
                found.least[some] += self._bit(code, one, found.some(some), place) << place
        values[at] = sign * found.least

    def _longer_than(self, code: Code, one: "_Elements", found: "_Found", bit: int) -> Array:
        """Code whether magnitudes of at least ``bit`` bits have more."""
        curves = [
            _share(part, whole)
            for part, whole in zip(one.beyond(found, 1 << bit), one.beyond(found, 1 << (bit - 1)), strict=True)
        ]
        node, beside = self._longer[bit - 1], _beside(one, found.at, np.zeros_like(found.at), bit - 1)
        chances = node.predict(curves, (found.sign > 0).astype(np.int64), one.level[found.at], beside)
        bits = code(chances, one.step, found.at + one.start, 1 << bit)
        node.see(bits)
        return bits

    def _bit(self, code: Code, one: "_Elements", found: "_Found", place: int) -> Array:
        """Code whether magnitudes known but for the bits from ``place`` down have that bit."""
        low = found.least
        middle, top = low + (1 << place), low + (2 << place)
        curves = []
        for first, half, last in zip(*(one.beyond(found, edge) for edge in (low, middle, top)), strict=True):
            rest = np.where(top > found.greatest, 0, last)
            curves.append(_share(half - rest, first - rest))
        node, beside = self._lower[place], _beside(one, found.at, low - (1 << place), place)
        key = 2 * np.minimum(low >> (place + 1), _MOST_NODES - 1) + (found.sign > 0)
        bits = code(node.predict(curves, key, one.level[found.at], beside), one.step, found.at + one.start, middle)
        node.see(bits)
        return bits


class _Found(NamedTuple):
    """Elements that are not zero: their places in a step, their signs, and the bounds of their magnitudes."""

    at: Array
    sign: Array
    least: Array
    greatest: Array

    def some(self, which: Array) -> "_Found":
        """Return those at ``which``."""
        return _Found(*(part[which] for part in self))


@dataclass(frozen=True)
class _Elements:
    """Some elements of one step and what is known of them.

    Attributes:
        step: theirs.
        start: the lane of the first.
        mean: of each, in 1/64.
        curves: shapes, each with the deviation of each element.
        near: the values of four neighbours of each.
        level: of the neighbours' errors, 0 to 7.
    """

    step: int
    start: int
    mean: Array
    curves: tuple[tuple[Shape, Array], ...]
    near: list[Array]
    level: Array

    def beyond(self, found: _Found, least: Array | int) -> list[Array]:
        """Return, by each curve, the share of magnitudes from ``least`` up on the side of the sign."""
        edge = least * UNIT - UNIT // 2 - found.sign * self.mean[found.at]
        return [tail(shape, edge, deviation[found.at]) for shape, deviation in self.curves]


def _beside(one: _Elements, at: Array, low: Array, place: int) -> Array:
    """Return how the magnitudes of the two nearest neighbours compare with a range from ``low``, 0 to 8."""
    first, second = (bounded((np.abs(part[at]) - low) >> place, 0, 2) for part in one.near[:2])
    return np.asarray(first * 3 + second)


def _share(part: Array, whole: Array) -> Array:
    """Return ``part / whole`` as a chance; a half of nothing."""
    chance = (part << 16) // np.maximum(whole, 1)
    return bounded(np.where(whole > 0, chance, HALF), FLOOR, ONE - FLOOR)
