"""Integer levels of weights and inputs, read from codings and input grids for a runtime that computes in 8 bits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gossamer.codings import Affine, Codebook, Coding, Hash, Reshape, Sparse, decode, dtype
from gossamer.codings.hashed import places
from gossamer.codings.nodes import Array, shape

_UNSIGNED = 128
"""What makes a signed code of 8 bits an unsigned one."""
_BYTE = 256
_CLOSE = 2.0**-21
"""How near, in shares of itself, a shared value has to be to a multiple of the smallest."""
_FINE = 2.0**-20
"""Scale of a weight that is all zeros."""
_BETWEEN = "its grid puts 0.0 between two codes"


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight as ``(codes - zero) * scale``.

    Attributes:
        codes: int8 or uint8, the weight's shape.
        scale: float32, 0-d or 1-d along ``axis``.
        zero: of the dtype of ``codes`` and the shape of ``scale``.
        axis: the dimension along which scale and zero vary, or None.
    """

    codes: Array
    scale: Array
    zero: Array
    axis: int | None

    @property
    def values(self) -> Array:
        """What the codes stand for, float32."""
        shape = [-1 if axis == self.axis else 1 for axis in range(self.codes.ndim)] if self.axis is not None else ()
        scale, zero = self.scale.reshape(shape), self.zero.astype(np.float32).reshape(shape)
        return np.asarray((self.codes.astype(np.float32) - zero) * scale, np.float32)

    @property
    def symmetric(self) -> bool:
        """Whether 0 is the code of 0.0 everywhere."""
        return not self.zero.any()

    @property
    def about_zero(self) -> "Weight":
        """The same with codes less their zeros, if zeros differ and signed bytes have room: products want one zero."""
        if self.axis is None or self.symmetric:
            return self
        shape = [-1 if axis == self.axis else 1 for axis in range(self.codes.ndim)]
        codes = self.codes.astype(np.int64) - self.zero.astype(np.int64).reshape(shape)
        if not _fits(np.int8, codes):
            return self
        return replace(self, codes=codes.astype(np.int8), zero=np.zeros(self.zero.shape, np.int8))


@dataclass(frozen=True)
class Levels:
    """The grid of a node's input: ``(q - zero) * scale`` with unsigned codes of 8 bits, or some of these.

    The runtime fuses signed inputs on some processors only, so signed codes become unsigned by adding 128 to them and
    to their zero, which leaves the values as they are. Codes of more bits stay as they are.

    Attributes:
        scale: the step.
        zero: the code of 0.0.
        low: the least code.
        high: the largest.
    """

    scale: float
    zero: int
    low: int = 0
    high: int = 255

    @property
    def bytes_do(self) -> bool:
        """Whether a code fits in a byte."""
        return self.low >= 0 and self.high <= 255

    @property
    def every_byte(self) -> bool:
        """Whether all values of a byte are codes."""
        return (self.low, self.high) == (0, 255)

    def code(self, value: float) -> float:
        """Return the code that ``value`` would have if there were no ends."""
        return float(np.rint(np.float32(value) / np.float32(self.scale))) + self.zero


def weight_levels(coding: Coding) -> Weight | str:
    """Return the weight's 8-bit levels, or why it has none.

    Levels are found through sharing and sparseness too: the shared values may be on a grid, and so may buckets and the
    values of a support, whose gaps take the code of zero.
    """
    found = affine_levels(coding)
    if isinstance(coding, Reshape):
        return _BETWEEN if _between(coding.values) else "it has a scale for each group of values in a row"
    if found is None:
        values = coding.values if isinstance(coding, Sparse) else coding
        what = "its shared values are" if isinstance(values, Codebook | Hash) else "it is"
        return f"{what} not stored on a grid of integers"
    codes, scale, zero, axis = found
    if codes.size == 0:
        return "it is empty"
    if (zero != np.rint(zero)).any():
        return _BETWEEN
    kind = next((kind for kind in (np.int8, np.uint8) if _fits(kind, codes) and _fits(kind, zero)), None)
    if kind is None:
        return f"its codes span {int(codes.min())} to {int(codes.max())}, more than 8 bits"
    return Weight(codes.astype(kind), _of_use(codes, scale, zero, axis), zero.astype(kind), axis)


def on_grid(coding: Coding) -> bool:
    """Return whether a weight of two dimensions or more is stored as integers, of whatever width and scales."""
    found = affine_levels(coding)
    return isinstance(coding, Reshape) or (found is not None and found[0].ndim > 1)


def _between(values: Coding) -> bool:
    """Return whether 0.0 lies between two codes of ``values`` somewhere."""
    if not isinstance(values, Affine):
        return False
    zero = decode(values.zero)
    return bool((zero != np.rint(zero)).any())


def _of_use(codes: Array, scale: Array, zero: Array, axis: int | None) -> Array:
    """Return ``scale``, another one where all codes stand for 0.0: any will do there, but biases are rounded to it."""
    rows = codes.reshape(1, -1) if axis is None else np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1)
    empty = (rows == zero.reshape(-1, 1)).all(axis=1).reshape(scale.shape)
    finest = scale[~empty].min(initial=np.inf)
    return np.where(empty, finest if np.isfinite(finest) else _FINE, scale).astype(np.float32)


def affine_levels(coding: Coding) -> tuple[Array, Array, Array, int | None] | None:
    """Return codes of the whole array, scale, zero and axis, if ``coding`` rests on one affine node; else None.

    Shared values of a matrix, a kernel and the like may also be multiples of one of them.
    """
    return _levels(coding, even=len(shape(coding)) > 1)


def _levels(coding: Coding, *, even: bool) -> tuple[Array, Array, Array, int | None] | None:  # noqa: PLR0911 one per node
    match coding:
        case Affine():
            return decode(coding.codes), decode(coding.scale), decode(coding.zero), coding.axis
        case Codebook():
            centers = _levels(coding.centers, even=False) or (_even(coding.centers) if even else None)
            if centers is None or centers[3] is not None:
                return None
            return centers[0][decode(coding.codes)], *centers[1:]
        case Sparse():
            values = _levels(coding.values, even=even)
            if values is None or values[3] is not None:
                return None
            support = decode(coding.support)
            codes = np.full(support.shape, values[2], np.int64)
            codes[support] = values[0]
            return codes, *values[1:]
        case Hash():
            return _hashed(coding)
        case _:
            return None


def _even(centers: Coding) -> tuple[Array, Array, Array, None] | None:
    """Return the levels of a few shared values that are multiples of the smallest, as those of one or two bits are."""
    if dtype(centers) != "float32" or shape(centers)[0] > _BYTE:
        return None
    values = decode(centers)
    sizes = np.abs(values[values != 0])
    if not sizes.size or not np.isfinite(values).all():
        return None
    with np.errstate(over="ignore"):
        codes = np.rint(values / sizes.min())
    if not np.abs(codes).max() < _BYTE // 2 or not np.allclose(codes * sizes.min(), values, rtol=_CLOSE, atol=0):
        return None
    return codes.astype(np.int64), np.asarray(sizes.min(), np.float32), np.zeros((), np.int64), None


def _hashed(coding: Hash) -> tuple[Array, Array, Array, None] | None:
    """Return the levels of a hashed weight whose buckets are on a grid symmetric about the code 0."""
    buckets = affine_levels(coding.buckets)
    if buckets is None or buckets[3] is not None or buckets[2].any():
        return None
    codes = np.zeros(coding.shape, np.int64)
    flat, table = codes.reshape(-1), buckets[0].astype(np.int64)
    for some in places(coding.shape, coding.seed, max(table.size, 1)):
        flat[some.where] = np.where(some.flipped, -1, 1) * table[some.buckets]
    if coding.support is not None:
        codes[~decode(coding.support)] = 0
    return codes, buckets[1], buckets[2], None


def input_levels(grid: Mapping[str, Any]) -> Levels | str:
    """Return the levels of an input grid as an artifact holds it, or why it has none."""
    scale, zero = np.asarray(grid["scale"], np.float32), np.asarray(grid["zero"])
    if scale.size != 1 or zero.size != 1:
        return "the grid of its input has several scales, wanted one"
    if not (np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(zero).all()):
        return f"the grid of its input has the scale {scale.item()} and the zero {zero.item()}"
    signed, codes = bool(grid["signed"]), 1 << int(grid["bits"])
    more = _UNSIGNED if signed and codes <= _BYTE else 0
    low = more - (codes // 2 if signed else 0)
    levels = Levels(float(scale.reshape(())), int(zero.reshape(())) + more, low, low + codes - 1)
    if not levels.low <= levels.zero <= levels.high:
        return f"the grid of its input has no code for 0.0: its zero is {zero.item()}"
    return levels


def _fits(kind: type[np.int8] | type[np.uint8], values: Array) -> bool:
    limits = np.iinfo(kind)
    return bool(values.min() >= limits.min and values.max() <= limits.max)
