"""A bounded, deterministic, uniform sample of a stream of numbers.

Every number of the stream gets a pseudo-random priority, and the numbers of lowest priority are kept: bottom-k sampling
(Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007). The priorities are one fixed sequence (PCG64:
O'Neill 2014), so the sample depends on the stream only, not on how it was cut into batches.
"""

import numpy as np
from numpy.typing import NDArray


class Sample:
    """Keeps at most ``size`` numbers of all that were added.

    Args:
        size: numbers kept, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._random = np.random.PCG64(0)
        self._limit: np.uint64 | None = None
        self._priorities = np.empty(0, dtype=np.uint64)
        self._numbers = np.empty(0, dtype=np.float32)

    def add(self, numbers: NDArray[np.float32]) -> None:
        """Add a flat array of numbers to the stream."""
        priorities = self._random.random_raw(numbers.size)
        if self._limit is not None:
            low = np.flatnonzero(priorities < self._limit)
            priorities, numbers = priorities[low], numbers[low]
        self._priorities = np.concatenate([self._priorities, priorities])
        self._numbers = np.concatenate([self._numbers, numbers])
        if self._priorities.size > 2 * self.size:
            self._shrink()

    def _shrink(self) -> None:
        if self._priorities.size <= self.size:
            return
        self._limit = np.partition(self._priorities, self.size)[self.size]
        low = np.flatnonzero(self._priorities < self._limit)
        self._priorities, self._numbers = self._priorities[low], self._numbers[low]

    def numbers(self) -> NDArray[np.float32]:
        """Return the sample in the order of the stream (all numbers when there were no more than ``size``)."""
        self._shrink()
        return self._numbers.copy()
