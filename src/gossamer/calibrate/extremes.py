"""The ends of a stream of batches: of all numbers, and of each batch averaged.

The average is the exponential moving one of Jacob et al., CVPR 2018 (arXiv 1712.05877), section 3.1, of the smallest
and the largest number of each batch. Its decay is 0.99; that it starts from nothing is divided out (Kingma and Ba, ICLR
2015, arXiv 1412.6980, section 3), so few batches count nearly alike.
"""

from typing import Final

DECAY: Final = 0.99


class Extremes:
    """Smallest and largest number of all, and their averages over batches."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self._batch = -1
        self._now = (0.0, 0.0)
        self._sums = (0.0, 0.0)
        self._weight = 0.0

    def see(self, low: float, high: float, batch: int) -> None:
        """Take in the ends of some numbers of a batch; batches come one after the other."""
        if self._batch < 0:
            self.low, self.high = low, high
        self.low, self.high = min(self.low, low), max(self.high, high)
        if batch == self._batch:
            self._now = min(self._now[0], low), max(self._now[1], high)
            return
        self._weight, self._sums = self._folded()
        self._batch, self._now = batch, (low, high)

    def average(self) -> tuple[float, float]:
        """Return the averages of the smallest and the largest number of each batch; one was seen."""
        weight, (low, high) = self._folded()
        return low / weight, high / weight

    def _folded(self) -> tuple[float, tuple[float, float]]:
        """Return the total weight and the weighted sums with the batch that is being seen."""
        if self._batch < 0:
            return self._weight, self._sums
        low, high = (DECAY * total + (1 - DECAY) * end for total, end in zip(self._sums, self._now, strict=True))
        return DECAY * self._weight + (1 - DECAY), (low, high)
