"""What is said of a matrix before its elements: a level for each row and column, and a mean of low rank.

Weights of one unit, or from one input, share a scale; and a trained matrix is noise with a few strong directions above
it (the spikes of Baik, Ben Arous and Péché 2005, arXiv math/0403022). With U and V in small whole numbers and gains g,

    deviation = 2^((base + row + column) / 4) / 64,    mean = deviation · Σ g U Vᵀ,

both computed in whole numbers only. `fit` finds what pays; this module reads, writes and applies it.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from struct import Struct

import numpy as np

from gossamer.coders import adaptive, stream
from gossamer.coders.stream import Array
from gossamer.errors import CodingError

UNIT = 64  # means and deviations are in 1/64
MOST_DIRECTIONS = 128
MOST_FACTOR = 31  # factors are -31 .. 31
GAIN_UNIT = 1 << 16
MOST_GAIN = (1 << 24) - 1
PER_OCTAVE = 4
TOP_LEVEL = 95
_BOUND = 1 << 22  # of a mean, in deviations and 2^-16
_QUARTERS = (65536, 77936, 92682, 110218)  # 2^16 * 2^(i/4), rounded
SCALES = np.array([max(_QUARTERS[k % 4] << (k // 4) >> 16, 1) for k in range(TOP_LEVEL + 1)], np.int64)
_PREFIX = Struct(
    "<BBBBBHH"
)  # base, greatest levels of rows and columns, greatest factor, directions, settings of the arrays


@dataclass(frozen=True)
class Outline:
    """Levels, gains and factors of a matrix.

    Attributes:
        base: the least level, 0 to 95.
        rows: level of each row above the base.
        columns: level of each column above that.
        gains: of each direction, in 2^-16, below 2^24.
        left: (directions, rows), -31 to 31.
        right: (directions, columns).
    """

    base: int
    rows: Array
    columns: Array
    gains: Array
    left: Array
    right: Array

    def levels(self, rows: Array) -> Array:
        """Return the levels, indices into `SCALES`, of elements in rows of level ``rows`` above the base."""
        return np.asarray(np.minimum(self.base + rows[:, None] + self.columns, TOP_LEVEL)).astype(np.int32)

    def shares(self, some: slice = slice(None)) -> Array:
        """Return the mean of every element of ``some`` rows, in 2^-16 deviations: whole numbers in float64.

        Whole numbers below 2^53 are exact in float64, in whatever order they are summed.
        """
        weighted = (self.gains[:, None] * self.left[:, some]).astype(np.float64)
        share = weighted.T @ self.right.astype(np.float64)
        return np.minimum(np.maximum(share, -_BOUND, out=share), _BOUND, out=share)


def plain(shape: tuple[int, ...], base: int, rows: Array, columns: Array) -> Outline:
    """Return an outline of levels alone."""
    none = np.zeros((0, shape[0]), np.int64), np.zeros((0, shape[1]), np.int64)
    return Outline(base, rows, columns, np.zeros(0, np.int64), *none)


def write(outline: Outline) -> tuple[bytes, list[stream.Part]]:
    """Return the bytes that stand before a stream and the parts that stand first in it."""
    arrays = _arrays(outline)
    settings = [adaptive.choose(array, size)[0] for array, size in arrays]
    parts: list[stream.Part] = []
    for (array, size), setting in zip(arrays, settings, strict=True):
        parts.extend(adaptive.parts(array, size, setting))
    tops = (arrays[0][1] - 1, arrays[1][1] - 1, _top(outline))
    packed = [settings[0] + 16 * settings[1], settings[2] + 16 * settings[3]]
    prefix = _PREFIX.pack(outline.base, *tops, outline.gains.size, *packed)
    return prefix + b"".join(int(gain).to_bytes(3, "little") for gain in outline.gains), parts


def length(data: bytes) -> int:
    """Return how many bytes of ``data`` stand before the stream.

    Raises:
        CodingError: they are cut off, or out of bounds.
    """
    if len(data) < _PREFIX.size:
        raise CodingError("an outline is cut off in its prefix")
    base, row, column, top, directions, *settings = _PREFIX.unpack_from(data)
    if max(base, row, column) > TOP_LEVEL or top > MOST_FACTOR or directions > MOST_DIRECTIONS:
        raise CodingError(f"an outline has levels {base}, {row}, {column}, {directions} directions of factors to {top}")
    if max(settings) >= adaptive.SETTINGS**2:
        raise CodingError(f"an outline has settings {settings}, at most {adaptive.SETTINGS**2 - 1}")
    if len(data) < _PREFIX.size + 3 * directions:
        raise CodingError(f"an outline is cut off in the gains of {directions} directions")
    return int(_PREFIX.size + 3 * directions)


def read(data: bytes, reader: stream.Reader, shape: tuple[int, ...]) -> Outline:
    """Return the outline whose prefix ``data`` is (`length` bytes), its arrays next on ``reader``."""
    base, row, column, top, directions, *packed = _PREFIX.unpack_from(data)
    ends = range(_PREFIX.size, len(data) + 1, 3)
    gains = np.array([int.from_bytes(data[start:stop], "little") for start, stop in pairwise(ends)], np.int64)
    settings = [packed[0] % 16, packed[0] // 16, packed[1] % 16, packed[1] // 16]
    if directions * sum(shape) > prod(shape):
        raise CodingError(
            f"an outline of {shape[0]} x {shape[1]} has {directions} directions, more than it has elements"
        )
    sizes = (shape[0], shape[1], directions * shape[0], directions * shape[1])
    alphabets = (row + 1, column + 1, 2 * top + 1, 2 * top + 1)
    rows, columns, left, right = (
        adaptive.take(reader, size, alphabet, setting).astype(np.int64)
        for size, alphabet, setting in zip(sizes, alphabets, settings, strict=True)
    )
    left, right = left.reshape(directions, shape[0]) - top, right.reshape(directions, shape[1]) - top
    return Outline(base, rows, columns, gains, left, right)


def _arrays(outline: Outline) -> list[tuple[Array, int]]:
    """Return the four arrays as symbols, each with its alphabet."""
    levels = [(part, int(part.max(initial=0)) + 1) for part in (outline.rows, outline.columns)]
    top = _top(outline)
    return levels + [(part.reshape(-1) + top, 2 * top + 1) for part in (outline.left, outline.right)]


def _top(outline: Outline) -> int:
    return max(int(np.abs(part).max(initial=0)) for part in (outline.left, outline.right))
