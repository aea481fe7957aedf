"""The walk over a matrix of whole numbers that the blend model takes, the same when writing and when reading.

A step is one row of the walked matrix, a lane one column. Of each element a mean is known beforehand (`means`), refined
by the errors of its neighbours, and a deviation: that of its lane times that of its step. An element is then a series
of decisions: is it zero, is it above zero, has its magnitude 2, 3 .. bits, and the lower bits from the top. Each is
predicted from the two bell curves of `curves` and from how such decisions went before; logistic mixing joins them.
"""

from typing import NamedTuple, Protocol

import numpy as np

from gossamer.coders.curves import TAIL_BITS, logistic, normal
from gossamer.coders.logistic import FLOOR, ONE, STRETCH, Counts, Mixer, bounded
from gossamer.coders.stream import Array

FRACTION = 6  # bits after the point of means and deviations
UNIT = 1 << FRACTION
NEIGHBOURS = 5
_LANE_PRIOR, _STEP_PRIOR = 6, 48
_CURVE_LEVELS, _NEAR_LEVELS = 32, 8
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
        self._mixer = Mixer(6, 0.17, 6)

    def predict(self, curves: list[Array], node: Array | int, ratio: Array, near: Array) -> Array:
        """Return the mixed chance of each element."""
        level = (STRETCH[curves[0] >> 4] + 2048) >> 7
        self._keys = (node * _CURVE_LEVELS + level, ratio * _CURVE_LEVELS + level, near * _CURVE_LEVELS + level)
        guesses = [table.predict(key, curves[0], 6) for table, key in zip(self._tables, self._keys, strict=True)]
        return self._mixer.mix([*curves, *guesses])

    def see(self, bits: Array) -> None:
        """Learn what happened."""
        self._mixer.see(bits)
        for table, key in zip(self._tables, self._keys, strict=True):
            table.see(key, bits)


class BlendWalk:
    """The state of a walk: what was seen, and what it taught."""

    def __init__(self, means: Array, settings: Settings) -> None:
        steps, lanes = means.shape
        self._back = settings.lag + 1
        self._settings = settings
        self._means = means
        self.values = np.zeros((steps + self._back, lanes), np.int64)  # the first rows stand before the walk
        self._errors = np.zeros((steps + self._back, lanes), np.int64)
        self._lane_total = np.zeros(lanes, np.int64)
        self._ratios = np.full(steps + self._back, ONE, np.int64)
        self._total, self._count = UNIT, 1
        longest = max(settings.below, settings.above, 1).bit_length()
        self._zero, self._sign = Node(1, 81), Node(1, 81)
        self._longer = [Node(2, 9) for _ in range(longest)]
        self._lower = [Node(2 * min(1 << (longest - bit), _MOST_NODES), 9) for bit in range(longest)]
        ends = sorted({lanes // 8, lanes // 4, lanes // 2, lanes})
        self._chunks = [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False) if stop > start]

    def run(self, code: Code) -> Array:
        """Walk all steps and return the matrix of values (steps, lanes)."""
        for step in range(len(self._means)):
            row = step + self._back
            met, expected = 0, 0
            for lanes in self._chunks:
                error, guess = self._chunk(code, row, lanes, met, expected)
                met, expected = met + error, expected + guess
            self._ratios[row] = (met << 16) // max(expected, 1)
            self._total += met
            self._count += self._means.shape[1]
        return self.values[self._back :]

    def _chunk(self, code: Code, row: int, lanes: slice, met: int, expected: int) -> tuple[int, int]:
        step = row - self._back
        overall = self._total // self._count + 1
        lane = (self._lane_total[lanes] + _LANE_PRIOR * overall) // (step + _LANE_PRIOR)
        ratio = self._ratio(row, met, expected, overall)
        deviation = np.maximum((lane * ratio) >> 16, 2)
        lag = self._settings.lag
        later = row - lag + 1 if lag > 2 else row - 1
        rows = (row - 1, row - lag, later, row - lag - 1, row - 2)
        errors = [self._errors[at, lanes] for at in rows]
        mean = self._means[step, lanes].copy()
        for weight, error in zip(self._settings.weights, errors, strict=True):
            if weight:
                mean += (weight * error) >> 6
        spread = (2 * np.abs(errors[0]) + 2 * np.abs(errors[1]) + np.abs(errors[2]) + np.abs(errors[3])) // 6
        view = _View(self.values[row, lanes], mean, deviation, (deviation + spread) >> 1 | 1, spread, [
            self.values[at, lanes] for at in rows])
        self._code(code, step, lanes.start, view)
        error = self.values[row, lanes] * UNIT - self._means[step, lanes]
        self._errors[row, lanes] = error
        size = np.abs(self.values[row, lanes] * UNIT - mean)
        self._lane_total[lanes] += size
        return int(size.sum()), int(lane.sum())

    def _ratio(self, row: int, met: int, expected: int, overall: int) -> int:
        """Return how much larger than usual the errors of a step are, from the steps near it and its first lanes."""
        lag = self._settings.lag
        near = (2 * int(self._ratios[row - 1]) + int(self._ratios[row - lag]) + int(self._ratios[row - lag + 1])) // 4
        prior = _STEP_PRIOR * overall
        ratio = (prior * near + (met << 16)) // (prior + expected)
        return min(max(ratio, ONE // 64), ONE * 64)

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
        bits = code(self._zero.predict(chances, 0, level, np.abs(pattern - 40) ), step, everywhere + start, 1, sign=False)
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
    """What is known of the elements of a chunk before they are coded."""

    def __init__(self, values: Array, mean: Array, deviation: Array, local: Array, spread: Array, near: list[Array]) -> None:
        self.values, self.mean, self.deviation, self.local, self.spread, self.near = (
            values, mean, deviation, local, spread, near)

    def tails(self, at: Array, sign: Array | int):
        deviation, local = self.deviation[at], self.local[at]
        return ((normal, deviation), (logistic, deviation), (logistic, local))


def _share(part: Array, whole: Array) -> Array:
    """Return ``part / whole`` as a chance."""
    chance = (part << 16) // np.maximum(whole, 1)
    return bounded(np.where(whole > 0, chance, ONE // 2), FLOOR, ONE - FLOOR)


def _levels(spread: Array, deviation: Array) -> Array:
    """Return how the neighbours' errors compare with what is expected, 0 to 7."""
    ratio = (spread << 3) // deviation
    return np.searchsorted(_RATIOS, ratio, side="right")


_RATIOS = np.array([1, 3, 5, 7, 9, 12, 18])
