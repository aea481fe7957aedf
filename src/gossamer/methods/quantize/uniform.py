"""Uniform levels between two ends: the step and the zero point of a range, with 0.0 always exactly on a level.

Jacob et al., CVPR 2018 (arXiv 1712.05877), section 2.1: real = (q - zero) * scale.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Levels:
    """Integer levels per row: real = (q - zero) * scale for q from ``lowest`` to ``highest``.

    Attributes:
        scale: float32, one per row, positive.
        zero: int32, one per row, between ``lowest`` and ``highest``.
        lowest: smallest code.
        highest: largest code.
    """

    scale: Array
    zero: NDArray[np.int32]
    lowest: int
    highest: int

    def snap(self, rows: Array) -> Array:
        """Return the nearest levels of ``rows`` (rows, values): half to even, ends clamped."""
        scale, zero = self.scale[:, None], self.zero[:, None].astype(np.float32)
        codes = np.clip(np.rint(rows / scale) + zero, self.lowest, self.highest)
        return np.asarray((codes - zero) * scale, np.float32)


def symmetric(low: Array, high: Array, bits: int, *, powers: bool = False) -> Levels:
    """Return signed levels with zero point 0 that reach the end farther from 0.0.

    The two ends are the codes -(2^(bits-1) - 1) and 2^(bits-1) - 1; the one code below stays for values that are
    clamped.

    Args:
        low: smallest value to reach, per row.
        high: largest value to reach, per row.
        bits: width of a code, at least 2.
        powers: whether scales are powers of two, the next above (Jain et al. 2020, arXiv 1903.08066).
    """
    top = 2 ** (bits - 1) - 1
    reach = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
    return Levels(_step(reach, top, powers=powers), np.zeros(reach.shape, np.int32), -top - 1, top)


def affine(low: Array, high: Array, bits: int, *, powers: bool = False) -> Levels:
    """Return unsigned levels from ``low`` to ``high``, widened to hold 0.0, which gets the nearest code.

    Args:
        low: smallest value to reach, per row.
        high: largest value to reach, per row.
        bits: width of a code.
        powers: as for :func:`symmetric`.
    """
    top = 2**bits - 1
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    scale = _step(np.asarray(high - low, np.float32), top, powers=powers)
    zero = np.clip(np.rint(-low / scale), 0, top).astype(np.int32)
    return Levels(scale, zero, 0, top)


def coarse(levels: Levels, digits: int) -> Levels:
    """Return ``levels`` with scales of so many significant binary digits, the next above: shorter in a file."""
    share, exponent = np.frexp(levels.scale)
    scale = np.ldexp(np.ceil(np.ldexp(share, digits)), exponent - digits).astype(np.float32)
    return replace(levels, scale=scale)


def _step(span: Array, steps: int, *, powers: bool) -> Array:
    """Return span / steps; 1 where the span is nothing, or too small to divide."""
    step = np.asarray(span / np.float32(steps), np.float32)
    if powers:
        share, exponent = np.frexp(step)
        step = np.ldexp(np.float32(1), exponent - (share == 0.5)).astype(np.float32)
    return np.where(step < np.finfo(np.float32).tiny, np.float32(1.0), step).astype(np.float32)
