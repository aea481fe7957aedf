"""k-means of weighted points on a line, by Lloyd's iterations.

Lloyd, "Least squares quantization in PCM", IEEE Trans. Information Theory 28, 1982. On sorted points every cluster is
a run, so one iteration costs k binary searches and differences of one prefix sum, whatever the count of points. With
weights, a center is the weighted mean of its members, while each member still has its nearest center: Choi, El-Khamy
and Lee, "Towards the Limit of Network Quantization", ICLR 2017 (arXiv 1612.01543).
"""

import numpy as np

from gossamer.methods.share.points import Floats, Index, Points

_ITERATIONS = 1000
"""An upper limit only: a run ends as soon as no point changes its cluster."""


def lloyd(points: Points, centers: Floats) -> Floats:
    """Return the centers that k-means settles at.

    A center that no point is nearest to stays where it is. A point in the middle of two belongs to the lower.

    Args:
        points: what is clustered.
        centers: sorted, at least one: where it starts.

    Returns:
        sorted centers, as many.
    """
    edges: Index = np.empty(0, dtype=np.int64)
    for _ in range(_ITERATIONS):
        inner = np.searchsorted(points.at, (centers[1:] + centers[:-1]) / 2, side="right")
        moved = np.concatenate([[0], inner, [points.at.size]])
        if np.array_equal(moved, edges):
            break
        edges = moved
        centers = np.where(np.diff(edges) > 0, points.means(edges), centers)
    return centers
