"""Shared values of which each row has its own: small codes, alike in every row, and where the rows' centers begin."""

import numpy as np

from gossamer.codings.nodes import Array, Codebook, Shift
from gossamer.codings.option import RECORD, Option, best
from gossamer.codings.values import floats, tidy
from gossamer.codings.whole import Effort, whole


def by_rows(every: Array, starts: Array, centers: Array, name: str, effort: Effort) -> Option:
    """Return the smallest way found to write ``centers[every]`` with codes that are counted row by row.

    The centers of a row are put in order, those without members left out. The codes are counted from the first, or,
    where that is shorter, so that zero (or the first center above it) has the same code in every row: one model then
    fits the codes of all rows.

    Args:
        every: codes among all centers, of any shape of at least one dimension.
        starts: one number per row; rows of the same number have the same centers.
        centers: all centers.
        name: their dtype.
        effort: as for `encode`.
    """
    codes = np.zeros(every.shape, np.int64)
    first = np.zeros(starts.size, np.int64)
    kept, pivots, taken = [centers[:0]], np.zeros(starts.size, np.int64), 0
    for start in np.unique(starts):
        rows = starts == start
        inside = every[rows].astype(np.int64)
        low = int(inside.min()) if inside.size else 0
        codes[rows], own = tidy(inside - low, centers[low:], name)
        first[rows], pivots[rows] = taken, _below_zero(own, name)
        kept.append(own)
        taken += own.size
    up = int(pivots.max(initial=0)) - pivots
    values = floats(np.concatenate(kept), name)
    aligned = codes + up.reshape(-1, *[1] * (every.ndim - 1))
    return best([_shifted(aligned, first - up, values, effort), _shifted(codes, first, values, "fast")])


def _shifted(codes: Array, starts: Array, values: Option, effort: Effort) -> Option:
    small = codes.astype(np.min_scalar_type(int(codes.max(initial=0))))
    begin = starts.astype(np.int16 if int((starts + codes.max(initial=0)).max(initial=0)) < 1 << 15 else np.int32)
    inner, outer = (whole(array, array.dtype.name, effort) for array in (small, begin))
    total = inner.bytes + outer.bytes + values.bytes + 2 * RECORD
    return Option(total, lambda: Codebook(Shift(inner.build(), outer.build()), values.build()))


def _below_zero(ordered: Array, name: str) -> int:
    """Return how many of the sorted floats are below zero."""
    if name == "bfloat16":
        return int(np.count_nonzero((ordered >> 15) & (ordered & 0x7FFF > 0)))
    return int(np.count_nonzero(ordered < 0))
