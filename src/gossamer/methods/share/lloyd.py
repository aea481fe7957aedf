"""Exact k-means of numbers on a line.

Lloyd, "Least squares quantization in PCM", IEEE Trans. Information Theory 28, 1982. On sorted numbers every cluster is
a run, so one iteration costs k binary searches and differences of one prefix sum, whatever the count of numbers.
"""

import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 1000
"""An upper limit only: a run ends as soon as no number changes its cluster."""


def lloyd(values: NDArray[np.float64], centers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centers that k-means settles at.

    A center that no number is nearest to stays where it is. A number in the middle of two belongs to the lower.

    Args:
        values: sorted, finite, at least one.
        centers: sorted, at least one: where it starts.

    Returns:
        sorted centers, as many.
    """
    prefix = np.concatenate([[0.0], np.cumsum(values)])
    edges = np.empty(0, dtype=np.int64)
    for _ in range(_ITERATIONS):
        inner = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2, side="right")
        moved = np.concatenate([[0], inner, [values.size]])
        if np.array_equal(moved, edges):
            break
        edges = moved
        members = np.diff(edges)
        centers = np.where(members > 0, np.diff(prefix[edges]) / np.maximum(members, 1), centers)
    return centers
