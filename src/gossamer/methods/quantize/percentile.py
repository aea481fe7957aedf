"""The range between two percentiles: the few values outside are clamped (Wu et al. 2020, arXiv 2004.09602)."""

import numpy as np

from gossamer.methods.quantize.uniform import Array


def percentile(rows: Array, percent: float) -> tuple[Array, Array]:
    """Return per row of ``rows`` (rows, values) the values at ``100 - percent`` and ``percent``, interpolated.

    Args:
        rows: at least one value each.
        percent: above 50, at most 100; 100 is the range of all values.
    """
    low, high = np.quantile(rows, [1.0 - percent / 100.0, percent / 100.0], axis=1)
    return low.astype(np.float32), high.astype(np.float32)
