"""The walk over a matrix of whole numbers that the blend model takes, the same when writing and when reading.

A step is one row of the walked matrix, a lane one column. Of each element a mean is known beforehand (`means`), refined
by the errors of its neighbours, and a deviation: that of its lane times that of its step. An element is then a series
of decisions: is it zero, is it above zero, has its magnitude 2, 3 .. bits, and the lower bits from the top. Each is
predicted from the two bell curves of `curves` and from how such decisions went before; logistic mixing joins them.
"""

from typing import NamedTuple, Protocol

import os
import numpy as np
E = os.environ.get

from gossamer.coders.curves import TAIL_BITS, tail as _tail
from gossamer.coders.logistic import FLOOR, ONE, STRETCH, Counts, Mixer, bounded
from gossamer.coders.stream import Array

FRACTION = 6  # bits after the point of means and deviations
UNIT = 1 << FRACTION
NEIGHBOURS = 5
_LANE_PRIOR, _STEP_PRIOR = 6, 48
_CURVE_LEVELS, _NEAR_LEVELS = 32, 8
ONE = ONE
_MOST_NODES = 1 << 9


class Code(Protocol):
    """Codes decisions one way or the other."""

    def __call__(self, chances: Array, step: int, lanes: Array, least: Array | int, *, sign: bool) -> Array:
        """Return whether elements ``lanes`` of ``step`` are positive (``sign``) or at least ``least`` in magnitude."""


class Settings(NamedTuple):
    """What the writer chooses: distance of a far neighbour, weights of neighbours' errors (1/64), greatest values."""

    lag: int
    weights: tuple[int, ...]
    below: int
    above: int


class Node:
    """One decision: its tables of what happened before, and its mixer."""

    def __init__(self, nodes: int, near: int) -> None:
        self._nodes, self._near = nodes, near
        self._tables = (
            Counts(nodes * _CURVE_LEVELS, 1023),
            Counts(_CURVE_LEVELS * _NEAR_LEVELS, 255),
            Counts(near * _CURVE_LEVELS, 255),
        )
        self._mixer = Mixer(6, 0.17, int(E('RATE',2)))
        self._mixer._weights[:] = [int(65536*float(x)) for x in E('INIT','.4,.0,.1,.3,.1,.1').split(',')]

    def predict(self, curves: list[Array], node: Array | int, ratio: Array, near: Array) -> Array:
        """Return the mixed chance of each element."""
        level = (STRETCH[curves[0] >> 4] + 2048) >> 7
        self._keys = (node * _CURVE_LEVELS + level, ratio * _CURVE_LEVELS + level, near * _CURVE_LEVELS + level)
        guesses = [table.predict(key, curves[0], int(E('STR',16))) for table, key in zip(self._tables, self._keys, strict=True)]
        return self._mixer.mix([*curves, *guesses])

    def see(self, bits: Array) -> None:
        """Learn what happened."""
        self._mixer.see(bits)
        for table, key in zip(self._tables, self._keys, strict=True):
            table.see(key, bits)


class BlendWalk:
    """The state of a walk: what was seen, and what it taught."""

    def __init__(self, means: Array, deviations: Array, settings: Settings) -> None:
        steps, lanes = means.shape
        self._back = settings.lag + 1
        self._settings = settings
        self._means = means
        self._deviations = deviations
        self.values = np.zeros((steps + self._back, lanes), np.int64)  # the first rows stand before the walk
        self._errors = np.zeros((steps + self._back, lanes), np.int64)  # from the mean of the outline
        self._sizes = np.full((steps + self._back, lanes), 256, np.int64)  # of the errors after all, in deviations
        longest = max(settings.below, settings.above, 1).bit_length()
        self._zero, self._sign = Node(1, 96), Node(1, 96)
        self._longer = [Node(2, 9) for _ in range(longest)]
        self._lower = [Node(2 * min(1 << (longest - bit), _MOST_NODES), 9) for bit in range(longest)]

    def run(self, code: Code) -> Array:
        """Walk all steps and return the matrix of values (steps, lanes)."""
        for step in range(len(self._means)):
            self._step(code, step + self._back)
        return self.values[self._back :]

    def _step(self, code: Code, row: int) -> None:
        step = row - self._back
        lag = self._settings.lag
        later = row - lag + 1 if lag > 2 else row - 1
        rows = (row - 1, row - lag, later, row - lag - 1, row - 2)
        mean = self._means[step].copy()
        deviation = self._deviations[step]
        for weight, at in zip(self._settings.weights, rows, strict=True):
            if weight:
                mean += (weight * self._errors[at]) >> 6
        spread = (2 * self._sizes[row - 1] + 2 * self._sizes[row - lag] + self._sizes[later] + self._sizes[row - 2]) // 6
        local = np.maximum(deviation * (self._lk + spread) // (256 + self._lk), 1)
        view = _View(self.values[row], mean, deviation, local, spread, [self.values[at] for at in rows])
        self._code(code, step, 0, view)
        exact = self.values[row] * UNIT
        self._errors[row] = exact - self._means[step]
        self._sizes[row] = np.minimum(np.abs(exact - mean) * 256 // deviation, 2048)
    _lk = int(E('LK', 768))

    def _code(self, code: Code, step: int, start: int, view: "_View") -> None:
        values = view.values
        everywhere = np.arange(values.size)
        near = [np.sign(part) for part in view.near[:4]]
        level = _levels(view.spread, view.deviation)
        pattern = (near[0] * 27 + near[1] * 9 + near[2] * 3 + near[3]) + 40
        curves = view.tails(everywhere, 1)
        whole = 1 << TAIL_BITS
        half = np.full(values.size, UNIT // 2, np.int64)
        high = [tail(half - view.mean, deviation) for tail, deviation in curves]
        low = [whole - tail(-half - view.mean, deviation) for tail, deviation in curves]
        chances = [_share(up + down, np.full_like(up, whole)) for up, down in zip(high, low, strict=True)]
        count = np.abs(near[0]) + np.abs(near[1]) + np.abs(near[2]) + np.abs(near[3])
        bits = code(self._zero.predict(chances, 0, level, count*9+bounded(np.abs(view.mean)*4//view.deviation,0,8)), step, everywhere + start, 1, sign=False)
        self._zero.see(bits)
        at = np.flatnonzero(bits)
        if at.size == 0:
            return
        if self._settings.below and self._settings.above:
            chances = [_share(up[at], up[at] + down[at]) for up, down in zip(high, low, strict=True)]
            bits = code(self._sign.predict(chances, 0, level[at], pattern[at]), step, at + start, 0, sign=True)
            self._sign.see(bits)
            values[at] = 2 * bits - 1
        else:
            values[at] = 1 if self._settings.above else -1
        self._magnitudes(code, step, start, view, at, level)

    def _magnitudes(self, code: Code, step: int, start: int, view: "_View", at: Array, level: Array) -> None:
        sign = view.values[at]
        greatest = np.where(sign > 0, self._settings.above, self._settings.below)
        near = (bounded(np.abs(view.near[0]) , 0, 1 << 20), bounded(np.abs(view.near[1]), 0, 1 << 20))
        least = np.ones(at.size, np.int64)
        length = np.ones(at.size, np.int64)
        alive = np.flatnonzero(greatest >= 2)
        bit = 1
        while alive.size:
            pos, s = at[alive], sign[alive]
            mid = 1 << bit
            pairs = view.tails(pos, s)
            chances = []
            for tail, deviation in pairs:
                base = s * view.mean[pos] + UNIT // 2
                chances.append(_share(tail(mid * UNIT - base, deviation), tail((mid >> 1) * UNIT - base, deviation)))
            beside = bounded(near[0][pos] * 2 >> bit, 0, 2) * 3 + bounded(near[1][pos] * 2 >> bit, 0, 2)
            node = self._longer[bit - 1]
            bits = code(node.predict(chances, (s > 0).astype(np.int64), level[pos], beside), step, pos + start, mid, sign=False)
            node.see(bits)
            alive = alive[bits != 0]
            least[alive], length[alive] = mid, bit + 1
            bit += 1
            alive = alive[greatest[alive] >= 1 << bit]
        for place in range(int(length.max()) - 2, -1, -1):
            some = np.flatnonzero((length > place + 1) & (least + (1 << place) <= greatest))
            if some.size == 0:
                continue
            pos, s, low = at[some], sign[some], least[some]
            mid, top = low + (1 << place), low + (2 << place)
            chances = []
            base = s * view.mean[pos] + UNIT // 2
            for tail, deviation in view.tails(pos, s):
                first, middle, last = (tail(edge * UNIT - base, deviation) for edge in (low, mid, top))
                last = np.where(top > greatest[some], 0, last)
                chances.append(_share(middle - last, first - last))
            node = self._lower[place]
            key = bounded(low >> place + 1, 0, _MOST_NODES - 1) % (node._nodes // 2)
            beside = bounded(near[0][pos] - low + (1<<place) >> place, 0, 2) * 3 + bounded(near[1][pos] - low + (1<<place) >> place, 0, 2)
            bits = code(node.predict(chances, 2 * key + (s > 0), level[pos], beside), step, pos + start, mid, sign=False)
            node.see(bits)
            least[some] += bits << place
        view.values[at] = sign * least


class _View:
    """What is known of the elements of a step before they are coded."""

    def __init__(self, values, mean, deviation, local, spread, near) -> None:
        self.values, self.mean, self.deviation, self.local, self.spread, self.near = (
            values, mean, deviation, local, spread, near)

    def tails(self, at, sign):
        from functools import partial
        deviation, local = self.deviation[at], self.local[at]
        return ((partial(_tail, "normal"), deviation), (partial(_tail, "between"), local), (partial(_tail, "logistic"), local))


def _share(part: Array, whole: Array) -> Array:
    """Return ``part / whole`` as a chance."""
    chance = (part << 16) // np.maximum(whole, 1)
    return bounded(np.where(whole > 0, chance, ONE // 2), FLOOR, ONE - FLOOR)


def _levels(spread: Array, deviation: Array) -> Array:
    """Return how the neighbours' errors compare with what is expected, 0 to 7."""
    return np.searchsorted(_RATIOS, spread, side="right")


_RATIOS = np.array([64, 110, 160, 220, 290, 380, 520])
