"""Where the centers of k-means start: the three ways of Deep Compression, and the optimum itself.

Han, Mao and Dally, ICLR 2016 (arXiv 1510.00149), section 3.2 and figure 6. Their finding: the linear start keeps the
few large weights, which matter more than their number says.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from gossamer.methods.share.lloyd import lloyd
from gossamer.methods.share.optimal import BINS, optimal
from gossamer.methods.share.points import Floats, Points

Start = Literal["linear", "density", "forgy", "optimal"]


def clustered(points: Points, count: int, start: Start, seed: int) -> Floats:
    """Return at most ``count`` sorted centers for ``points``.

    Args:
        points: what is clustered.
        count: most centers, at least 1.
        start: "linear", at equal distances over the range; "density", at equal steps of the cumulative distribution;
            "forgy", at points drawn at random; each followed by Lloyd's iterations; "optimal", without a start; of more
            than 512 centers, which no longer matter much where they lie, "density".
        seed: of the draw.
    """
    return STARTS[start](points, count, seed)


def _linear(points: Points, count: int, _seed: int) -> Floats:
    return lloyd(points, np.linspace(points.at[0], points.at[-1], count) if count > 1 else points.at[:1])


def _density(points: Points, count: int, _seed: int) -> Floats:
    below = np.cumsum(points.weight)
    return lloyd(points, points.at[np.searchsorted(below, (np.arange(count) + 0.5) / count * below[-1], side="right")])


def _forgy(points: Points, count: int, seed: int) -> Floats:
    drawn = np.random.default_rng(seed).choice(points.at, min(count, points.at.size), replace=False)
    return lloyd(points, np.sort(drawn))


def _optimal(points: Points, count: int, seed: int) -> Floats:
    return optimal(points, count) if count <= BINS // 8 else _density(points, count, seed)


STARTS: dict[Start, Callable[[Points, int, int], Floats]] = {
    "linear": _linear,
    "density": _density,
    "forgy": _forgy,
    "optimal": _optimal,
}
