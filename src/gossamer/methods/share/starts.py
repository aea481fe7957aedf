"""Where the centers of k-means start: the three ways of Deep Compression, and the optimum itself.

Han, Mao and Dally, ICLR 2016 (arXiv 1510.00149), section 3.2 and figure 6. Their finding: the linear start keeps the
few large weights, which matter more than their number says.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gossamer.methods.share.lloyd import lloyd
from gossamer.methods.share.optimal import BINS, optimal

Start = Literal["linear", "density", "forgy", "optimal"]
Values = NDArray[np.float64]


def clustered(values: Values, count: int, start: Start, seed: int) -> Values:
    """Return at most ``count`` sorted centers for ``values``.

    Args:
        values: sorted, finite, at least one.
        count: most centers, at least 1.
        start: "linear", at equal distances over the range; "density", at equal steps of the cumulative distribution;
            "forgy", at values drawn at random; each followed by Lloyd's iterations; "optimal", without a start; of more
            than 512 centers, which no longer matter much where they lie, "density".
        seed: of the draw.
    """
    return STARTS[start](values, count, seed)


def _linear(values: Values, count: int, _seed: int) -> Values:
    return lloyd(values, np.linspace(values[0], values[-1], count) if count > 1 else values[:1])


def _density(values: Values, count: int, _seed: int) -> Values:
    return lloyd(values, values[((np.arange(count) + 0.5) / count * values.size).astype(np.int64)])


def _forgy(values: Values, count: int, seed: int) -> Values:
    distinct = np.unique(values)
    drawn = np.random.default_rng(seed).choice(distinct, min(count, distinct.size), replace=False)
    return lloyd(values, np.sort(drawn))


def _optimal(values: Values, count: int, seed: int) -> Values:
    return optimal(values, count) if count <= BINS // 8 else _density(values, count, seed)


STARTS: dict[Start, Callable[[Values, int, int], Values]] = {
    "linear": _linear,
    "density": _density,
    "forgy": _forgy,
    "optimal": _optimal,
}
