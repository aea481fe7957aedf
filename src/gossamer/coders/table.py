"""Frequency tables in few bytes: each frequency as a level on a logarithmic scale, levels as Rice-coded differences.

A level is an eighth of an octave, so a stored frequency is within 4.5 % of the counted one and the code grows by less
than 0.001 bit per symbol (the divergence is half the mean squared relative error). Rice code: Rice and Plaunt 1971.
"""

import numpy as np

from gossamer.coders.stream import Array
from gossamer.errors import CodingError

_STEPS = 8
_TOP = 24
_EIGHTHS = (65536, 60097, 55109, 50535, 46341, 42495, 38968, 35734)  # 2^16 * 2^(-i/8), rounded
_ABSENT = _STEPS * _TOP  # the level of a symbol that does not occur
_LONGEST = 2 * _ABSENT + 1


def frequencies_of(levels: Array) -> Array:
    """Return the whole-number frequencies that ``levels`` (0 the most frequent, 192 absent) stand for."""
    base = np.array(_EIGHTHS, np.int64)[levels % _STEPS] << (_TOP - 16)
    return np.where(levels >= _ABSENT, 0, base >> (levels // _STEPS))


def levels_of(counts: Array) -> Array:
    """Return the level of every count, relative to the largest."""
    share = np.maximum(counts, 1) / max(int(counts.max(initial=1)), 1)
    levels = np.rint(-np.log2(share) * _STEPS).astype(np.int64)
    return np.where(counts > 0, np.minimum(levels, _ABSENT - 1), _ABSENT)


def write_table(levels: Array) -> bytes:
    """Return ``levels`` as one byte (the Rice parameter) and the Rice-coded differences of neighbours."""
    steps = np.diff(levels, prepend=0)
    mapped = np.where(steps < 0, -2 * steps - 1, 2 * steps)
    width = min(range(8), key=lambda candidate: int((mapped >> candidate).sum()) + mapped.size * candidate)
    bits = np.concatenate([_rice(int(value), width) for value in mapped])
    return bytes([width]) + np.packbits(bits, bitorder="little").tobytes()


def read_table(data: bytes, alphabet: int) -> tuple[Array, int]:
    """Return the levels of ``alphabet`` symbols and the number of bytes of ``data`` they took.

    Raises:
        CodingError: the bytes end too early or hold a level outside the scale.
    """
    width = data[0] if data else 0
    if width > 7:
        raise CodingError(f"a frequency table's Rice parameter is at most 7, got {width}")
    longest = 1 + (alphabet * (_LONGEST + width + 1) + 7) // 8
    bits = np.unpackbits(np.frombuffer(data[1:longest], np.uint8), bitorder="little")
    zeros = np.flatnonzero(bits == 0)
    mapped = np.zeros(alphabet, np.int64)
    at = 0
    for symbol in range(alphabet):
        index = int(np.searchsorted(zeros, at))
        if index == zeros.size or int(zeros[index]) + width >= bits.size:
            raise CodingError(f"a frequency table ends inside symbol {symbol} of {alphabet}")
        stop = int(zeros[index])
        low = int(bits[stop + 1 : stop + 1 + width] @ (1 << np.arange(width))) if width else 0
        mapped[symbol] = ((stop - at) << width) | low
        at = stop + 1 + width
    levels = np.cumsum(np.where(mapped % 2, -(mapped + 1) // 2, mapped // 2))
    if levels.size and (int(levels.min()) < 0 or int(levels.max()) > _ABSENT):
        raise CodingError(f"a frequency table holds a level outside 0 to {_ABSENT}")
    return levels, 1 + (at + 7) // 8


def _rice(value: int, width: int) -> Array:
    quotient = value >> width
    bits = np.ones(quotient + 1 + width, np.uint8)
    bits[quotient] = 0
    bits[quotient + 1 :] = (value >> np.arange(width)) & 1
    return bits
