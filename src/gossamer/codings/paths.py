"""Paths through a trellis: indices whose grid the parities of those before them in a row choose.

Each row of an array (an index of its first dimension) starts in state 0. In states 0 and 1 index k stands for 2k, in
states 2 and 3 for 2k - sign(k); the state and the parity of k give the next state (Schwarz et al., "Hybrid Video Coding
with Trellis-Coded Quantization", DCC 2019, the table of four states).
"""

from math import prod
from typing import Final

import numpy as np

from gossamer.codings.nodes import Array
from gossamer.errors import CodingError

STATES: Final = 4
FIRST: Final = 0
GRIDS: Final = (0, 0, 1, 1)
"""Of each state: what the magnitude of 2k is less by, if k is not zero."""
NEXT: Final = ((0, 2), (2, 0), (1, 3), (3, 1))
"""The state after each state, by the parity of the index."""
BEFORE: Final = (((0, 0), (1, 1)), ((2, 0), (3, 1)), ((1, 0), (0, 1)), ((3, 0), (2, 1)))
"""The states before each state with the parity on the way: the even one, and the odd one."""
LARGEST: Final = (1 << 30) - 1
"""Of an index, so that what it stands for fits in 32 bits."""

_NEXT, _GRIDS = np.array(NEXT, np.int8), np.array(GRIDS, np.int32)


def values_on(indices: Array, less: Array) -> Array:
    """Return what indices stand for: 2k, or 2k - sign(k) where ``less`` is 1 and not 0."""
    return np.asarray(2 * indices - np.sign(indices) * less)


def least_bytes(shape: tuple[int, ...]) -> int:
    """Return how many bytes paths should take for their decoding time to be fair: one for eight steps of all rows."""
    return prod(shape[1:]) // 8 if prod(shape) else 0


def follow(indices: Array) -> Array:
    """Return the numbers that the indices of paths stand for, int32, of the same shape (rows, ...).

    Raises:
        CodingError: an index is too large.
    """
    if indices.size and not -LARGEST <= int(indices.min()) <= int(indices.max()) <= LARGEST:
        raise CodingError(f"Paths: an index is beyond {LARGEST}, got {int(indices.min())} to {int(indices.max())}")
    flat = indices.reshape(len(indices), -1) if indices.size else indices.reshape(0, 0)
    made = np.empty(flat.shape, np.int32)
    state = np.full(len(flat), FIRST, np.int8)
    for column in range(flat.shape[1]):
        index = flat[:, column].astype(np.int32)
        made[:, column] = values_on(index, _GRIDS[state])
        state = _NEXT[state, index & 1]
    return made.reshape(indices.shape)


def trace(numbers: Array) -> Array | None:
    """Return the indices of the paths that make whole numbers (rows, ...), int32; None if there are none."""
    if numbers.ndim < 2 or not numbers.size or not -LARGEST <= int(numbers.min()) <= int(numbers.max()) <= LARGEST:
        return None
    flat = numbers.reshape(len(numbers), -1)
    if (flat[:, 0] & 1).any():  # as most arrays that hold no paths: nothing is allocated for them
        return None
    indices = np.empty(flat.shape, np.int32)
    state = np.full(len(flat), FIRST, np.int8)
    for column in range(flat.shape[1]):
        value = flat[:, column].astype(np.int64)
        doubled = np.asarray(value + np.sign(value) * _GRIDS[state], np.int64)
        if (doubled & 1).any():
            return None
        indices[:, column] = index = doubled >> 1
        state = _NEXT[state, index & 1]
    return indices.reshape(numbers.shape)
