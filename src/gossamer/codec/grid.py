"""One tensor with less precision: the nearest point of a uniform grid, or fewer significant bits.

With an entropy coder behind it, a uniform grid is within a quarter of a bit per weight of any code for the same squared
error (Gish and Pierce 1968). Zero is on the grid, so zeros stay zero. Everything works in pieces, to hold no float64
copy of a tensor.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gossamer.codings import Affine, Codebook, Coding, Dense
from gossamer.codings.bits import bit_view
from gossamer.codings.nodes import Array

SMALL = 1024
"""Elements below which a tensor is not put on a grid, and neither is a vector: biases, scales, running variances."""

PRECISION = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
"""Significant bits of the dtypes that can lose some; tensors of all others are kept as they are."""

LEAST = PRECISION["float16"]
"""Significant bits that a small tensor keeps at least: weights are stored in float16 everywhere without harm."""

_PIECE = 1 << 18
_MOST_CODE = 1 << 24  # whole numbers up to here are exact in float32
_MOST_LEVELS = 1 << 16
_TINY, _HUGE = 1e-30, 1e30


class Spread(NamedTuple):
    """Standard deviation and largest magnitude of a tensor."""

    std: float
    most: float


def is_small(shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor is a vector, or has too few elements to be put on a grid."""
    return len(shape) < 2 or math.prod(shape) < SMALL


def spread(dense: Dense) -> Spread | None:
    """Return the spread of a tensor, or None where it has none: no floats, no elements, a value that is not finite."""
    count = dense.array.size
    if dense.dtype not in PRECISION or count == 0:
        return None
    with np.errstate(all="ignore"):
        mean = sum(float(piece.sum()) for piece in _pieces(dense)) / count
        square = sum(float(np.square(piece - mean).sum()) for piece in _pieces(dense)) / count
        most = max(float(np.abs(piece).max()) for piece in _pieces(dense))
    return Spread(math.sqrt(square), most) if math.isfinite(square) and math.isfinite(most) else None


def on_grid(dense: Dense, step: float, found: Spread) -> Coding | None:
    """Return the coding of the multiples of ``step`` nearest to a tensor's elements, not yet in its smallest form.

    No element moves by more than half a step and the rounding of its own dtype.

    Args:
        dense: the tensor.
        step: distance of two grid points; stored, and used, as float32 (float64 for a tensor of float64).
        found: the tensor's `spread`.

    Returns:
        None where a grid says no less than the tensor itself: the step is finer than the dtype is at the size of a
        standard deviation, or there would be too many points.
    """
    wide = dense.dtype == "float64"
    step = step if wide else float(np.float32(step))
    if not _TINY < step < _HUGE or step <= found.std * 2.0 ** (1 - PRECISION[dense.dtype]):
        return None
    reach = int(min(found.most / step, _largest(dense.dtype) / step - 1)) + 1
    if reach >= (_MOST_LEVELS // 2 if wide else _MOST_CODE):
        return None
    codes = np.empty(dense.array.size, _narrow(reach))
    start = 0
    for piece in _pieces(dense):
        codes[start : start + piece.size] = np.clip(np.rint(piece / step), -reach, reach)
        start += piece.size
    codes = codes.reshape(dense.array.shape)
    if wide:
        low, high = int(codes.min()), int(codes.max())
        places = (codes.astype(np.int32) - low).astype(np.uint16)
        return Codebook(Dense(places), Dense(np.arange(low, high + 1) * step))
    return Affine(Dense(codes), Dense(np.array(step, np.float32)), Dense(np.array(0, np.int8)), None, dense.dtype)


def bits_for(step: float, found: Spread) -> int:
    """Return the significant bits that keep a small tensor within half a step, and never fewer than `LEAST`."""
    return max(LEAST, math.ceil(math.log2(max(2 * found.most / step, 1)))) if step > 0 else PRECISION["float64"]


def keep_bits(dense: Dense, bits: int) -> Dense | None:
    """Return a tensor rounded to ``bits`` significant bits, ties to even; None where its dtype has no more.

    An element moves by at most 2^-bits of itself.
    """
    drop = PRECISION[dense.dtype] - bits
    if drop <= 0:
        return None
    raw = bit_view(dense.array)
    kind = raw.dtype.type
    unit = kind(1) << kind(drop)
    cut = ~(unit - kind(1))
    rounded = (raw + (unit // kind(2) - kind(1)) + ((raw >> kind(drop)) & kind(1))) & cut
    finite = np.isfinite(rounded.view(dense.array.dtype))
    return Dense(np.where(finite, rounded, raw & cut).view(dense.array.dtype), dense.dtype)


def _pieces(dense: Dense) -> Iterator[Array]:
    """Yield the elements in order, as float64."""
    flat = dense.array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        if dense.dtype == "bfloat16":
            piece = (piece.astype(np.uint32) << 16).view(np.float32)
        yield piece.astype(np.float64)


def _largest(dtype: str) -> float:
    """Return the largest number of a dtype; that of bfloat16 is 2^127 (2 - 2^-7)."""
    return 2.0**127 * (2 - 2.0**-7) if dtype == "bfloat16" else float(np.finfo(dtype).max)


def _narrow(reach: int) -> type[np.signedinteger[Any]]:
    return next(kind for kind in (np.int8, np.int16, np.int32) if reach <= np.iinfo(kind).max)
