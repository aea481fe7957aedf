"""The walk over a matrix of signs that the mixed model takes, the same when writing and when reading.

A sign is -1, 0 or 1: below, at or above the pivot. A step is one row of the walked matrix, a lane one column. Whether
an element is zero is predicted from four views: the density of its lane times that of its step; its neighbours (the
steps 1, 2 and ``lag`` back, and beside those) with the same product; lane and step apart; and the number of neighbours.
The sign is predicted from the signs of the neighbours and the balance of its lane.
"""

from typing import Protocol

import numpy as np

from gossamer.coders.logistic import HALF, ONE, Counts, Mixer, bounded
from gossamer.coders.stream import Array

_LANE_PRIOR, _STEP_PRIOR = 4, 24
_LOWEST, _HIGHEST, _ALWAYS = 64, ONE - 64, ONE - ONE // 16


def _half_octaves() -> Array:
    """Return a coarse logarithm of a probability's upper 12 bits: 0 to 23, two per octave."""
    values = np.arange(4096)
    octave = np.array([max(int(value).bit_length() - 1, 0) for value in values])
    return np.asarray(2 * octave + ((values >> np.maximum(octave - 1, 0)) & 1) * (octave > 0))


_COARSE = _half_octaves()
_LEVELS = 24


class Code(Protocol):
    """Codes bits one way or the other."""

    def __call__(self, chances: Array, step: int, lanes: slice | Array, *, sign: bool) -> Array:
        """Return the bits of ``lanes`` in ``step``, each set with its chance (1/65536): not zero, or above."""


class Walk:
    """The state of a walk: what was seen, and what it taught."""

    def __init__(self, steps: int, lanes: int, lag: int, *, two_sided: bool) -> None:
        self._two_sided = two_sided
        self._back = lag + 1
        self._signs = np.zeros((steps + self._back, lanes), np.int8)  # first rows: before the walk, all zero
        self._lag = lag
        self._lane_total = np.zeros(lanes, np.int64)
        self._lane_balance = np.zeros(lanes, np.int64)
        self._step_density = np.full(steps + self._back, -1, np.int64)
        self._set, self._all = 1, 2
        self._contexts = (Counts(16 * _LEVELS, 255), Counts(12 * 12 * 6, 1023), Counts(6 * _LEVELS, 255))
        self._mixer = Mixer(5 * (0.25,), 4)
        self._sign_contexts = (Counts(81, 255), Counts(63, 255), Counts(17, 255))
        self._sign_mixer = Mixer(3 * (0.4,), 4)
        ends = sorted({lanes // 8, lanes // 4, lanes // 2, lanes})
        self._chunks = [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False) if stop > start]

    def run(self, code: Code) -> Array:
        """Walk all steps and return the matrix of signs, ``int8`` (steps, lanes)."""
        for step in range(len(self._signs) - self._back):
            row = step + self._back
            met = total = 0
            for lanes in self._chunks:
                met += self._support(code, row, lanes, met, total)
                total += lanes.stop - lanes.start
            self._step_density[row] = (met << 16) // total
            self._set += met
            self._all += total
            if self._two_sided and met:
                self._sign(code, row)
        return self._signs[self._back :]

    def _near(self, row: int, lanes: slice | Array) -> list[Array]:
        """Return the signs of the five neighbours; beside the lag stands one step earlier and one later."""
        later = row - self._lag + 1 if self._lag > 2 else row - 1
        rows = (row - 1, row - self._lag, later, row - self._lag - 1, row - 2)
        return [self._signs[at, lanes].astype(np.int64) for at in rows]

    def _support(self, code: Code, row: int, lanes: slice, met: int, total: int) -> int:
        """Code which of ``lanes`` are not zero; ``met`` of the step's first ``total`` were not. Return how many."""
        step, size = row - self._back, lanes.stop - lanes.start
        mean = (self._set << 16) // self._all
        lane = ((self._lane_total[lanes] << 16) + _LANE_PRIOR * mean) // (step + _LANE_PRIOR)
        along = (_STEP_PRIOR * self._expected(row, mean) + (met << 16)) // (_STEP_PRIOR + total)
        along = min(max(along, _LOWEST), _HIGHEST)
        joint = bounded(lane * along // max(mean, _LOWEST), _LOWEST, _HIGHEST)
        near = [part & 1 for part in self._near(row, lanes)]
        crowd = near[0] + near[1] + near[2] + near[3] + near[4]
        coarse = _COARSE[joint >> 4]
        keys = (
            (near[0] + 2 * near[1] + 4 * near[2] + 8 * near[3]) * _LEVELS + coarse,
            ((_COARSE[lane >> 4] >> 1) * 12 + (int(_COARSE[along >> 4]) >> 1)) * 6 + crowd,
            coarse * 6 + crowd,
        )
        guesses = [table.predict(key, joint) for table, key in zip(self._contexts, keys, strict=True)]
        bits = code(self._mixer.mix([joint, *guesses, np.full(size, _ALWAYS)]), step, lanes, sign=False)
        self._mixer.see(bits)
        for table, key in zip(self._contexts, keys, strict=True):
            table.see(key, bits)
        self._lane_total[lanes] += bits
        self._signs[row, lanes] = bits
        return int(bits.sum())

    def _expected(self, row: int, mean: int) -> int:
        """Return the density expected of a step from the steps near it."""
        seen = [int(self._step_density[at]) for at in (row - 1, row - 1, row - self._lag, row - self._lag + 1)]
        known = [density for density in seen if density >= 0]
        return sum(known) // len(known) if known else mean

    def _sign(self, code: Code, row: int) -> None:
        """Code the signs of a step whose support is known."""
        lanes = np.flatnonzero(self._signs[row])
        near = self._near(row, lanes)
        balance = self._lane_balance[lanes]
        pull = 2 * (near[0] + near[1]) + near[2] + near[3] + near[4]
        keys = (
            near[0] * 27 + near[1] * 9 + near[2] * 3 + near[3] + 40,
            (bounded(balance, -3, 3) + 3) * 9 + near[0] * 3 + near[1] + 4,
            bounded(pull, -8, 8) + 8,
        )
        half = np.full(lanes.size, HALF)
        guesses = [table.predict(key, half) for table, key in zip(self._sign_contexts, keys, strict=True)]
        bits = code(self._sign_mixer.mix(guesses), row - self._back, lanes, sign=True)
        self._sign_mixer.see(bits)
        for table, key in zip(self._sign_contexts, keys, strict=True):
            table.see(key, bits)
        self._lane_balance[lanes] = bounded(balance + 2 * bits - 1, -8, 8)
        self._signs[row, lanes] = 2 * bits - 1
