"""What each element of an array of whole numbers would cost, were it another: the coder's own prices.

Rate-distortion quantization weighs an error against the bits it saves, in the very model that will code the result
(Wiedemann et al., "DeepCABAC", IEEE JSTSP 2020, arXiv 1907.11900; Conzelmann and Bamler 2025, arXiv 2505.18758). The
models learn as they go, so the prices of one array are those of the array as it is: change it, and ask again.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gossamer.coders.price import Prices, price
from gossamer.coders.stream import Array
from gossamer.codings.whole import MIXED_LARGEST

Bits = NDArray[np.float64]
_LONGEST = 2**15 - 2
_BEYOND = 2.0  # bits more for each distance that nothing in the array has


@dataclass(frozen=True)
class Rates:
    """Bits of each choice at each place.

    Attributes:
        zero: bits of a zero, the array's shape.
        below: bits of a negative number, without its distance from zero; the same shape.
        above: likewise of a positive one.
        distance: bits of the distances 1, 2, and so on, up to one that nothing has yet.
        source: the prices they are made of, if there are any.
    """

    zero: Bits
    below: Bits
    above: Bits
    distance: Bits
    source: Prices | None = None

    def stretched(self, ratio: float) -> "Rates":
        """Return the rates for numbers counted in steps of ``ratio`` times the length, as far as they can be foretold.

        A distance costs what it did at its place, and a bit more for each halving of the step.
        """
        known = np.arange(1, len(self.distance) + 1)
        many = min(max(int(len(known) / ratio) + 2, 2), _LONGEST)
        distance = np.interp(np.arange(1, many + 1) * ratio, known, self.distance) - np.log2(ratio)
        return replace(self, distance=np.maximum(distance, 0.1))

    def of_rows(self, rows: Array) -> "Rates":
        """Return the rates of some rows."""
        return Rates(self.zero[rows], self.below[rows], self.above[rows], self.distance)

    def total(self, codes: Array) -> float:
        """Return the bits of ``codes``, of the same shape."""
        far = np.abs(codes[codes != 0])
        place = np.select([codes < 0, codes > 0], [self.below, self.above], self.zero)
        return float(place.sum() + self.distance[far - 1].sum())


def rates(codes: Array, like: Rates | None = None) -> Rates:
    """Return the prices around ``codes``: of the mixed model where it can code them, else of counts alone.

    Args:
        codes: whole numbers of any shape, most of them zero or near it.
        like: rates of an array of the same shape that differs little; saves time.
    """
    if codes.ndim > 1 and 0 < codes.size <= MIXED_LARGEST:
        found = price(codes, "mixed", None if like is None else like.source)
        places = [bits.reshape(codes.shape).astype(np.float64) for bits in (found.zero, found.below, found.above)]
        return Rates(places[0], places[1], places[2], _distance(codes), found)
    some, up = int(np.count_nonzero(codes)), int(np.count_nonzero(codes > 0))
    occupied, positive = (some + 1) / (codes.size + 2), (up + 1) / (some + 2)
    shares = (1 - occupied, occupied * (1 - positive), occupied * positive)
    zero, below, above = (np.full(codes.shape, -np.log2(share)) for share in shares)
    return Rates(zero, below, above, _distance(codes))


def _distance(codes: Array) -> Bits:
    far = np.abs(codes[codes != 0])
    counts = np.bincount(far - 1, minlength=1) + 0.3
    bits = -np.log2(counts / counts.sum())
    return np.append(bits, bits.max() + _BEYOND)[:_LONGEST]
