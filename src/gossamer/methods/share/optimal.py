"""Optimal k-means of numbers on a line, by dynamic programming.

Wang and Song, "Ckmeans.1d.dp: Optimal k-means clustering in one dimension by dynamic programming", The R Journal 3(2),
2011; on sorted numbers the best clusters are runs, and the best last run of the first i numbers starts no earlier when
i grows, so each layer is filled by divide and conquer (Grønlund et al., "Fast exact k-means, k-medians and Bregman
divergence clustering in 1D", 2017, arXiv 1701.07204). Many numbers are first summed up in bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossamer.methods.share.lloyd import lloyd

BINS = 4096
"""Up to so many numbers are clustered exactly; of more, bins of equal count and bins of equal width cut the line."""


@dataclass(frozen=True)
class _Sums:
    """Sums over the first i bins: numbers, their total, the total of their squares."""

    count: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    def cost(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the squared distance of the numbers in bins start to stop from their mean; 0 of none."""
        count = self.count[stop] - self.count[start]
        first = self.first[stop] - self.first[start]
        return np.maximum(self.second[stop] - self.second[start] - first**2 / np.maximum(count, 1), 0.0)


def optimal(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the ``count`` centers with the least sum of squared distances to their nearest numbers.

    Exact for at most :data:`BINS` numbers; else a start that is optimal for bins, settled by Lloyd's iterations.

    Args:
        values: sorted, finite, at least one.
        count: number of centers, at least 1.

    Returns:
        sorted centers, (count,), or one per number where there are fewer.
    """
    edges = _edges(values)
    count = min(count, len(edges) - 1)
    shifted = values - values.mean()
    sums = _Sums(edges.astype(np.float64), *(_sums(v)[edges] for v in (shifted, shifted**2)))
    cuts = _cuts(sums, count)
    centers = np.diff(_sums(values)[edges[cuts]]) / np.diff(edges[cuts])
    return centers if len(edges) == values.size + 1 else lloyd(values, centers)


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values)])


def _edges(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the positions where bins begin, and the end."""
    if values.size <= BINS:
        return np.arange(values.size + 1)
    equal_count = np.linspace(0, values.size, BINS // 2 + 1).astype(np.int64)
    equal_width = np.searchsorted(values, np.linspace(values[0], values[-1], BINS // 2 + 1))
    return np.unique(np.concatenate([equal_count, equal_width]))


def _cuts(sums: _Sums, count: int) -> NDArray[np.int64]:
    """Return where the best ``count`` runs of bins begin, and the end."""
    bins = len(sums.count) - 1
    everything = np.arange(bins + 1)
    best = sums.cost(np.zeros(bins + 1, np.int64), everything)
    starts = []
    for run in range(1, count):
        best, start = _layer(sums, best, run)
        starts.append(start)
    cuts = [bins]
    for start in reversed(starts):
        cuts.append(int(start[cuts[-1]]))
    return np.array([0, *reversed(cuts)])


def _layer(sums: _Sums, before: NDArray[np.float64], run: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the least cost of the first i bins in ``run`` + 1 runs, and where the last of these begins.

    Args:
        sums: of the bins.
        before: the least cost in ``run`` runs.
        run: how many runs come before.
    """
    bins = len(before) - 1
    best, start = np.full(bins + 1, np.inf), np.full(bins + 1, run, np.int64)
    best[run] = 0.0
    low, high = np.array([run + 1]), np.array([bins])  # ranges of i whose middle comes next
    while low.size:
        middle = (low + high) // 2
        first = start[low - 1]
        last = np.minimum(np.where(high < bins, start[np.minimum(high + 1, bins)], bins), middle - 1)
        best[middle], start[middle] = _least(sums, before, middle, first, last)
        below, above = low < middle, middle < high
        low, high = (
            np.concatenate([low[below], middle[above] + 1]),
            np.concatenate([middle[below] - 1, high[above]]),
        )
    return best, start


def _least(
    sums: _Sums,
    before: NDArray[np.float64],
    stop: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the least of before[m] + cost(m, stop) over m from first to last, and the first m that has it."""
    sizes = last - first + 1
    begin = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(sizes.size), sizes)
    m = np.arange(sizes.sum()) - begin[owner] + first[owner]
    cost = before[m] + sums.cost(m, stop[owner])
    least = np.minimum.reduceat(cost, begin)
    where = np.flatnonzero(cost == least[owner])
    _, place = np.unique(owner[where], return_index=True)
    return least, m[where[place]]
