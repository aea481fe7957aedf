"""Bits: fields of equal width in bytes, and bit-exact comparison of arrays."""

import numpy as np

from gossamer.codings.nodes import Array

_CHUNK = 1 << 16  # fields at a time; a multiple of 8, so that every chunk starts on a byte


def pack(fields: Array, width: int) -> Array:
    """Return ``fields`` (flat, not negative) in ``width`` bits each, lowest bit first, as ``uint8``."""
    if width in {8, 16, 32}:
        return fields.astype(f"<u{width // 8}").view(np.uint8)
    parts = [np.zeros(0, np.uint8)]
    for start in range(0, fields.size if width else 0, _CHUNK):
        chunk = fields[start : start + _CHUNK].astype("<u4").view(np.uint8).reshape(-1, 4)
        bits = np.unpackbits(chunk, axis=1, bitorder="little")[:, :width]
        parts.append(np.packbits(bits, bitorder="little"))
    return np.concatenate(parts)


def unpack(data: Array, width: int, count: int) -> Array:
    """Return ``count`` fields of ``width`` bits (at most 32) from ``data``, as ``uint32``."""
    if width == 0:
        return np.zeros(count, np.uint32)
    if width in {8, 16, 32}:
        return data.view(f"<u{width // 8}").astype(np.uint32)
    fields = np.empty(count, np.uint32)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        bits = np.unpackbits(data[start * width // 8 : (stop * width + 7) // 8], bitorder="little")
        wide = np.zeros((stop - start, 32), np.uint8)
        wide[:, :width] = bits[: (stop - start) * width].reshape(-1, width)
        fields[start:stop] = np.packbits(wide, axis=1, bitorder="little").view("<u4").reshape(-1)
    return fields


def bit_view(array: Array) -> Array:
    """Return the elements of ``array`` as unsigned integers of the same width, without copying."""
    return np.ascontiguousarray(array).reshape(array.shape).view(f"<u{array.dtype.itemsize}")


def same_bits(left: Array, right: Array) -> bool:
    """Tell whether two arrays agree in shape, dtype and every bit (NaN payloads and the sign of zero included)."""
    return (
        left.shape == right.shape
        and left.dtype == right.dtype
        and bool(np.array_equal(bit_view(left), bit_view(right)))
    )


def round_to_bfloat16(array: Array) -> Array:
    """Return float32 ``array`` rounded to the nearest bfloat16, ties to even, as ``uint16`` bit patterns."""
    bits = array.astype(np.float32).view(np.uint32)
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), (bits >> 16).astype(np.uint16) | np.uint16(0x40), rounded)
