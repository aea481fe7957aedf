"""The range whose levels tell least from the values themselves: least Kullback-Leibler divergence.

Migacz, "8-bit Inference with TensorRT", GTC 2017: a histogram of magnitudes in 2048 bins is cut after i bins, for every
i. What lies beyond is added to the last bin that is left: P. The same i bins without what lies beyond are merged into
as many as there are levels, and each sum is spread over those of its bins that are not empty: Q. The i of least
KL(P || Q) gives the range. Details are as in NVIDIA's own pytorch-quantization: bins go to levels by equal parts of the
cut, the first bin counts as much as the second (zeros of a rectifier say nothing), and of equal cuts the last is taken.
"""

import numpy as np
from numpy.typing import NDArray

from gossamer.methods.quantize.uniform import Array

BINS = 2048
"""Bins of the histogram. Where there are as many levels or more, merging changes nothing and the full range is kept."""


def least_divergence(sizes: Array, levels: int) -> float:
    """Return where magnitudes are best clamped.

    Args:
        sizes: magnitudes, 1-d, at least one.
        levels: how many levels a magnitude may have, zero among them.
    """
    reach = float(sizes.max())
    if levels >= BINS or reach < np.finfo(np.float32).tiny:
        return reach
    bins = np.histogram(sizes, BINS, (0.0, reach))[0].astype(np.float64)
    bins[0] = bins[1]
    found = np.array([divergence(bins, cut, levels) for cut in range(levels, BINS + 1)])
    best = BINS - int(np.argmin(found[::-1]))
    return reach * best / BINS


def divergence(bins: NDArray[np.float64], cut: int, levels: int) -> float:
    """Return KL(P || Q) in nats of a histogram cut after ``cut`` of its ``bins``; infinite where Q lacks what P has."""
    inside = bins[:cut]
    P = inside.copy()
    P[-1] += bins[cut:].sum()
    level = np.arange(cut) * levels // cut
    there = inside > 0
    counts = np.bincount(level, there, levels)
    sums = np.bincount(level, inside, levels)
    Q = np.where(there, (sums / np.maximum(counts, 1))[level], 0.0)
    if not Q.any() or bool(((P > 0) & (Q == 0)).any()):
        return np.inf
    P, Q = P[there] / P.sum(), Q[there] / Q.sum()
    return float((P * np.log(P / Q)).sum())
