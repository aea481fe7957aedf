"""Optimal k-means of weighted points on a line, by dynamic programming.

Wang and Song, "Ckmeans.1d.dp: Optimal k-means clustering in one dimension by dynamic programming", The R Journal 3(2),
2011; on sorted points the best clusters are runs, weighted or not, and the best last run of the first i points starts
no earlier when i grows, so each layer is filled by divide and conquer (Grønlund et al., "Fast exact k-means, k-medians
and Bregman divergence clustering in 1D", 2017, arXiv 1701.07204). Many points are first summed up in bins, half of them
of equal weight, half laid as the best quantizer of many levels lays its levels, as dense as the cube root of the
density (Panter and Dite, Proc. IRE 39, 1951); Lloyd's iterations then settle the ends of clusters between the points.
"""

import numpy as np

from gossamer.methods.share.lloyd import lloyd
from gossamer.methods.share.points import Floats, Index, Points

BINS = 4096
"""Up to so many points are clustered exactly; of more, bins."""


def optimal(points: Points, count: int) -> Floats:
    """Return the ``count`` centers with the least weighted sum of squared distances to their nearest points.

    Exact for at most :data:`BINS` points; else a start that is optimal for bins, settled by Lloyd's iterations.

    Args:
        points: what is clustered.
        count: number of centers, at least 1.

    Returns:
        sorted centers, (count,), or one per point where there are fewer.
    """
    if points.at.size <= BINS:
        return exact(points, count)
    return lloyd(points, exact(points.merged(_edges(points)), count))


def exact(points: Points, count: int) -> Floats:
    """Return the best ``count`` centers of ``points``, however many these are; see :func:`optimal`."""
    return points.means(_cuts(points, min(count, points.at.size)))


def _edges(points: Points) -> Index:
    """Return the positions where bins begin, and the end."""
    width = np.diff(points.at, append=points.at[-1])
    ruled = [np.cumsum(size) / size.sum() for size in (points.weight, np.cbrt(points.weight * width**2))]
    inner = [np.searchsorted(share, np.arange(1, BINS // 2) / (BINS // 2)) + 1 for share in ruled]
    return np.unique(np.concatenate([[0], *inner, [points.at.size]]))


def _cuts(points: Points, count: int) -> Index:
    """Return where the best ``count`` runs of points begin, and the end."""
    size = points.at.size
    everything = np.arange(size + 1)
    best = points.cost(np.zeros(size + 1, np.int64), everything)
    starts = []
    for run in range(1, count):
        best, start = _layer(points, best, run)
        starts.append(start)
    cuts = [size]
    for start in reversed(starts):
        cuts.append(int(start[cuts[-1]]))
    return np.array([0, *reversed(cuts)])


def _layer(points: Points, before: Floats, run: int) -> tuple[Floats, Index]:
    """Return the least cost of the first i points in ``run`` + 1 runs, and where the last of these begins.

    Args:
        points: what is clustered.
        before: the least cost in ``run`` runs.
        run: how many runs come before.
    """
    size = len(before) - 1
    best, start = np.full(size + 1, np.inf), np.full(size + 1, run, np.int64)
    best[run] = 0.0
    low, high = np.array([run + 1]), np.array([size])  # ranges of i whose middle comes next
    while low.size:
        middle = (low + high) // 2
        first = start[low - 1]
        last = np.minimum(np.where(high < size, start[np.minimum(high + 1, size)], size), middle - 1)
        best[middle], start[middle] = _least(points, before, middle, first, last)
        below, above = low < middle, middle < high
        low, high = (
            np.concatenate([low[below], middle[above] + 1]),
            np.concatenate([middle[below] - 1, high[above]]),
        )
    return best, start


def _least(
    points: Points,
    before: Floats,
    stop: Index,
    first: Index,
    last: Index,
) -> tuple[Floats, Index]:
    """Return the least of before[m] + cost(m, stop) over m from first to last, and the first m that has it."""
    sizes = last - first + 1
    begin = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(sizes.size), sizes)
    m = np.arange(sizes.sum()) - begin[owner] + first[owner]
    cost = before[m] + points.cost(m, stop[owner])
    least = np.minimum.reduceat(cost, begin)
    where = np.flatnonzero(cost == least[owner])
    _, place = np.unique(owner[where], return_index=True)
    return least, m[where[place]]
