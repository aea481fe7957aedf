"""A bounded, deterministic, uniform sample of a stream of numbers.

Every number of the stream gets a pseudo-random priority from its position (the finaliser of SplitMix64: Steele, Lea
and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), and the numbers of lowest priority are kept:
bottom-k sampling (Cohen and Kaplan, PODC 2007). The sample depends on the stream only, not on how it was cut into
batches.
"""

import numpy as np
from numpy.typing import NDArray

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


def _priority(first: int, count: int) -> NDArray[np.uint64]:
    """Return the priorities of positions ``first`` to ``first + count``."""
    z = np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


class Sample:
    """Keeps at most ``size`` numbers of all that were added.

    Args:
        size: numbers kept, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0
        self._limit = _ALL
        self._priorities = np.empty(0, dtype=np.uint64)
        self._numbers = np.empty(0, dtype=np.float32)

    def add(self, numbers: NDArray[np.float32]) -> None:
        """Add a flat array of numbers to the stream."""
        priorities = _priority(self.seen, numbers.size)
        self.seen += numbers.size
        if self._limit != _ALL:
            low = np.flatnonzero(priorities < self._limit)
            priorities, numbers = priorities[low], numbers[low]
        self._priorities = np.concatenate([self._priorities, priorities])
        self._numbers = np.concatenate([self._numbers, numbers.astype(np.float32)])
        if self._priorities.size > 2 * self.size:
            self._shrink()

    def _shrink(self) -> None:
        if self._priorities.size <= self.size:
            return
        lowest = np.argpartition(self._priorities, self.size)[: self.size + 1]
        self._limit = self._priorities[lowest].max()
        lowest = np.flatnonzero(self._priorities < self._limit)
        self._priorities, self._numbers = self._priorities[lowest], self._numbers[lowest]

    def numbers(self) -> NDArray[np.float32]:
        """Return the sample in the order of the stream (all numbers when there were no more than ``size``)."""
        self._shrink()
        return self._numbers.copy()
