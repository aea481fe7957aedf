"""Logistic mixing of binary predictions in whole numbers only, for many elements at once.

Context mixing is Mahoney's (2005, "Adaptive weighing of context models for lossless data compression"): predictions are
stretched, ``ln(p / (1 - p))``, summed with weights that learn online by gradient descent, and squashed back. Nothing
here rounds in floating point, so every machine computes the same probabilities. Probabilities are in 1/65536.
"""

from collections.abc import Sequence

import numpy as np

from gossamer.coders.stream import Array

ONE = 1 << 16
HALF = ONE // 2
FLOOR = 16  # no probability is below FLOOR / ONE or above 1 - FLOOR / ONE

# 65536 / (1 + exp(-k / 2)), rounded, for k = -16 .. 16; between them the curve is drawn straight.
_LOWER = (22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768)
_UPPER = (40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816)
_TOP = (65097, 65269, 65374, 65438, 65476, 65500, 65514)
_EDGE = 2047


def _squash_table() -> Array:
    at = np.arange(-_EDGE, _EDGE + 1)
    weight, index = at & 127, (at >> 7) + 16
    knots = np.array((*_LOWER, *_UPPER, *_TOP, _TOP[-1]), np.int64)
    return np.asarray((knots[index] * (128 - weight) + knots[index + 1] * weight + 64) >> 7)


SQUASH = _squash_table()
"""Probability at -2047 .. 2047, the inverse of `STRETCH`."""
STRETCH = np.searchsorted(SQUASH, np.arange(4096) * 16, side="left").clip(0, 2 * _EDGE) - _EDGE
"""Stretched probability, by the upper 12 bits of a probability."""


def bounded(values: Array, low: int, high: int) -> Array:
    """Return ``values`` kept within ``low`` and ``high`` (`numpy.clip`, at a third of its cost on short arrays)."""
    return np.minimum(np.maximum(values, low), high)


class Counts:
    """How often a bit was set in each context; old events fade once a context has seen ``limit`` of them."""

    def __init__(self, contexts: int, limit: int) -> None:
        self._seen = np.zeros(contexts, np.int64)
        self._set = np.zeros(contexts, np.int64)
        self._limit = limit

    def predict(self, contexts: Array, prior: Array, strength: int = 2) -> Array:
        """Return the share of set bits in each context, a ``prior`` counting as ``strength`` events."""
        return np.asarray(((self._set[contexts] << 16) + strength * prior) // (self._seen[contexts] + strength))

    def see(self, contexts: Array, bits: Array) -> None:
        """Count ``bits`` (0 or 1) in their contexts."""
        if 8 * contexts.size < self._seen.size:
            np.add.at(self._seen, contexts, 1)
            np.add.at(self._set, contexts, bits)
        else:
            self._seen += np.bincount(contexts, minlength=self._seen.size)
            self._set += np.bincount(contexts[bits != 0], minlength=self._set.size)
        full = contexts[self._seen[contexts] > self._limit]
        if full.size:
            full = np.unique(full)
            self._seen[full] = (self._seen[full] + 1) >> 1
            self._set[full] >>= 1


class Mixer:
    """A weighted sum of stretched predictions; one set of weights, learned over all elements."""

    def __init__(self, shares: Sequence[float], rate: int) -> None:
        self._weights = np.array([int(share * ONE) for share in shares], np.int64)
        self._rate = rate

    def mix(self, predictions: list[Array]) -> Array:
        """Return the mixed probability of each element."""
        self._stretched = STRETCH[np.stack(predictions) >> 4]
        at = bounded((self._weights @ self._stretched) >> 16, -_EDGE, _EDGE)
        self._mixed = bounded(SQUASH[at + _EDGE], FLOOR, ONE - FLOOR)
        return self._mixed

    def see(self, bits: Array) -> None:
        """Move the weights towards what would have predicted ``bits`` better."""
        error = (bits << 16) - self._mixed
        self._weights += (self._stretched @ error) * self._rate // (bits.size << 14)
