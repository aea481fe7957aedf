"""Decoding: a tree to the array it stands for, exactly."""

from math import prod
from typing import assert_never

import numpy as np

from gossamer import coders
from gossamer.codings.bits import bit_view, round_to_bfloat16, unpack
from gossamer.codings.hashed import places
from gossamer.codings.nodes import (
    DTYPES,
    Affine,
    Array,
    Bitmap,
    Codebook,
    Coding,
    Dense,
    Entropy,
    Gaps,
    Hash,
    Packed,
    Paths,
    Planes,
    Reshape,
    Runs,
    Shift,
    Sparse,
    dtype,
    shape,
)
from gossamer.codings.paths import follow
from gossamer.errors import CodingError

_CHUNK = 1 << 20


def decode(node: Coding) -> Array:
    """Return the array that ``node`` stands for, bit for bit; it is the caller's own.

    ``bfloat16`` and 8-bit floats come back as their bit patterns; `dtype` names them.

    Raises:
        CodingError: the parts of the tree do not fit together.
    """
    array = view(node)
    return array.copy() if isinstance(node, Dense | Reshape) else array


def view(node: Coding) -> Array:  # noqa: C901, PLR0911, PLR0912 one return per node
    """Return the array that ``node`` stands for, to be read only: a `Dense` node is not copied."""
    match node:
        case Dense():
            return node.array
        case Packed():
            fields = unpack(node.data, node.bits, prod(node.shape))
            return _shift(fields, node.low, node.dtype).reshape(node.shape)
        case Entropy():
            symbols = coders.decode(node.data.tobytes(), node.shape, node.alphabet, model=node.model, coder=node.coder)
            return _shift(symbols, node.low, node.dtype).reshape(node.shape)
        case Bitmap():
            flat = np.unpackbits(view(node.bits), count=prod(node.shape), bitorder="little")
            return flat.view(np.bool_).reshape(node.shape)
        case Gaps():
            support = np.zeros(prod(node.shape), np.bool_)
            support[_positions(node)] = True
            return support.reshape(node.shape)
        case Affine():
            return _affine(node)
        case Codebook():
            return _codebook(node)
        case Sparse():
            return _sparse(node)
        case Planes():
            parts = np.stack([view(plane).reshape(-1) for plane in node.planes], axis=-1)
            return np.ascontiguousarray(parts).view(DTYPES[node.dtype]).reshape(shape(node))
        case Hash():
            return _hash(node)
        case Shift():
            return _shifted(node)
        case Runs():
            return _runs(node)
        case Reshape():
            return view(node.values).reshape(node.shape)
        case Paths():
            return follow(view(node.indices))
        case _:
            assert_never(node)


def _shift(symbols: Array, low: int, name: str) -> Array:
    """Return ``symbols + low`` as dtype ``name``; refuses values the dtype cannot hold."""
    target = DTYPES[name]
    first, last = (0, 1) if name == "bool" else (np.iinfo(target).min, np.iinfo(target).max)
    top = int(symbols.max()) if symbols.size else 0
    if low < first or low + top > last:
        raise CodingError(f"elements {low} to {low + top} do not fit {name}")
    whole = symbols.astype(np.uint8 if name == "bool" else target, copy=False)
    if low:
        whole += np.asarray(low).astype(whole.dtype)  # wraps where a symbol is beyond the dtype; the sum is within
    return whole.view(target)


def _positions(node: Gaps) -> Array:
    gaps = view(node.gaps)
    total = prod(node.shape)
    if gaps.size and (int(gaps.min()) < 0 or int(gaps.max()) >= total):
        raise CodingError(f"Gaps: a gap lies outside an array of {total} elements")
    positions = gaps.astype(np.int64)
    positions[1:] += 1
    np.cumsum(positions, out=positions)
    if positions.size and int(positions[-1]) >= total:
        raise CodingError(f"Gaps: last position {int(positions[-1])} is outside an array of {total} elements")
    return positions


def _affine(node: Affine) -> Array:
    codes, scale, zero = view(node.codes), view(node.scale), view(node.zero).astype(np.float32)
    if node.axis is not None:
        along = tuple(-1 if axis == node.axis else 1 for axis in range(codes.ndim))
        scale, zero = scale.reshape(along), zero.reshape(along)
    with np.errstate(all="ignore"):
        value = (codes.astype(np.float32) - zero) * scale
        if node.dtype == "bfloat16":
            return round_to_bfloat16(value)
        return np.asarray(value, dtype=DTYPES[node.dtype])


def _codebook(node: Codebook) -> Array:
    codes, centers = view(node.codes), view(node.centers)
    if codes.size and (int(codes.min()) < 0 or int(codes.max()) >= centers.size):
        raise CodingError(f"Codebook: a code is outside the {centers.size} centers")
    flat, found = codes.reshape(-1), np.empty(codes.size, centers.dtype)
    for start in range(0, codes.size, _CHUNK):  # indices of 8 bytes for a part at a time
        found[start : start + _CHUNK] = centers.take(flat[start : start + _CHUNK].astype(np.intp))
    return found.reshape(codes.shape)


def _sparse(node: Sparse) -> Array:
    values = view(node.values)
    full = np.zeros(prod(shape(node)), DTYPES[dtype(node)])
    if isinstance(node.support, Gaps):
        where = _positions(node.support)
        count = where.size
    else:
        where = view(node.support).reshape(-1)
        count = int(np.count_nonzero(where))
    if count != values.size:
        raise CodingError(f"Sparse: the support has {count} elements but there are {values.size} values")
    full[where] = values
    return full.reshape(shape(node))


def _hash(node: Hash) -> Array:
    """Return the buckets at their places, with the sign bit turned where the hash says so."""
    buckets = view(node.buckets)
    bits = bit_view(buckets)
    top = 8 * bits.itemsize - 1
    full = np.empty(prod(node.shape), bits.dtype)
    for some in places(node.shape, node.seed, max(buckets.size, 1)):
        full[some.where] = bits.take(some.buckets) ^ (some.flipped.astype(bits.dtype) << bits.dtype.type(top))
    if node.support is not None:
        full[~view(node.support).reshape(-1)] = 0
    return full.view(buckets.dtype).reshape(node.shape)


def _shifted(node: Shift) -> Array:
    values, starts = view(node.values), view(node.starts)
    total = values + starts.reshape(-1, *[1] * (values.ndim - 1)).astype(np.int64)
    limits = np.iinfo(starts.dtype)
    if total.size and not limits.min <= int(total.min()) <= int(total.max()) <= limits.max:
        raise CodingError(f"Shift: elements {int(total.min())} to {int(total.max())} do not fit {dtype(node)}")
    return np.asarray(total.astype(starts.dtype))


def _runs(node: Runs) -> Array:
    words = view(node.words)
    if not words.size:  # a run may be of any length then
        return np.zeros(node.shape, np.uint32)
    top = (1 << 32) // node.width - 1
    if not 0 <= int(words.min()) <= int(words.max()) <= top:
        raise CodingError(f"Runs: wanted words from 0 to {top}, got {int(words.min())} to {int(words.max())}")
    full = np.empty((words.size, node.width), np.uint32)
    full[:] = (words.reshape(-1, 1)).astype(np.uint32) * np.uint32(node.width)
    full += np.arange(node.width, dtype=np.uint32)
    return full.reshape(node.shape)
