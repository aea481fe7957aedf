"""The range of least squared error: clamping a few values pays when it makes the steps of all others finer.

Both ends of the full range are drawn in by the same factor, from 1 down, and the best factor per row is kept. The
search over clipping factors is that of Banner et al., NeurIPS 2019 (arXiv 1810.05723), done by trying, not by a model
of the distribution.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from gossamer.methods.quantize.uniform import Array, Levels

FACTORS: Final = np.linspace(1.0, 0.2, 81, dtype=np.float32)
"""Tried factors of the full range, a hundredth apart."""

OFFSETS: Final = np.linspace(-0.009, 0.009, 19, dtype=np.float32)
"""Tried next, around the best factor."""


def least_squares(
    rows: Array, low: Array, high: Array, levels: Callable[[Array, Array], Levels]
) -> tuple[Array, Array]:
    """Return per row of ``rows`` (rows, values) the drawn-in ends with the least squared error of its values.

    Args:
        rows: values.
        low: smallest end, per row.
        high: largest end, per row.
        levels: the levels that two ends give.
    """
    best = np.full(len(rows), np.inf)
    factor = np.ones(len(rows), np.float32)

    def attempt(tried: Array) -> None:
        gap = levels(low * tried, high * tried).snap(rows) - rows
        error = np.einsum("ij,ij->i", gap, gap, dtype=np.float64)
        better = error < best
        best[better], factor[better] = error[better], tried[better]

    for coarse in FACTORS:
        attempt(np.full(len(rows), coarse, np.float32))
    around = factor.copy()
    for offset in OFFSETS:
        attempt(np.minimum(around + offset, np.float32(1.0)))
    return low * factor, high * factor
