"""Where a hashed array finds its elements: bucket and sign of each position, from xxHash of its index pair.

Chen, Wilson, Tyree, Weinberger and Chen, "Compressing Neural Networks with the Hashing Trick", ICML 2015 (arXiv
1504.04788), section 4: V_ij = ξ(i, j) · w_h(i, j), with xxHash as there. Position (i, j) is the index along the first
dimension and the index among the rest in C order; both as 32 bits, i first and lowest byte first, are the key. One
XXH64 of the key (Collet's specification, github.com/Cyan4973/xxHash) gives both functions: h is its low 32 bits modulo
the number of buckets, ξ is -1 where its highest bit is set. The hash is written in numpy here, over whole arrays, for
the ``xxhash`` package hashes one key per call; the tests compare with it.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from gossamer.codings.nodes import Array, Shape

_MASK = (1 << 64) - 1
_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_CHUNK = 1 << 12  # positions at a time; what is in between stays small beside the array


class Places(NamedTuple):
    """Some neighbouring positions of an array, in C order.

    Attributes:
        where: their slice of the flat array.
        buckets: ``uint32``, the bucket of each.
        flipped: bool, whether its sign is the other one.
    """

    where: slice
    buckets: Array
    flipped: Array


def places(shape: Shape, seed: int, count: int) -> Iterator[Places]:
    """Yield all positions of an array of ``shape`` with their buckets, a chunk at a time.

    Args:
        shape: of the array.
        seed: of the hash.
        count: number of buckets, at least 1 where there are positions.
    """
    total, width = prod(shape), np.uint64(max(prod(shape[1:]), 1))
    for start in range(0, total, _CHUNK):
        stop = min(start + _CHUNK, total)
        flat = np.arange(start, stop, dtype=np.uint64)
        i = flat // width
        hashed = xxh64((i & np.uint64(0xFFFFFFFF)) | ((flat - i * width) << np.uint64(32)), seed)
        yield Places(slice(start, stop), hashed.astype(np.uint32) % np.uint32(count), hashed >> np.uint64(63) != 0)


def xxh64(words: Array, seed: int) -> Array:
    """Return the XXH64 of each of ``words``, ``uint64`` keys of 8 bytes, lowest byte first."""
    mixed = np.full(words.shape, (seed + _P5 + 8) & _MASK, np.uint64)
    mixed ^= _turned(words * np.uint64(_P2), 31) * np.uint64(_P1)
    mixed = _turned(mixed, 27) * np.uint64(_P1) + np.uint64(_P4)
    for shift, prime in ((33, _P2), (29, _P3)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(prime)
    return np.asarray(mixed ^ (mixed >> np.uint64(32)))


def _turned(words: Array, bits: int) -> Array:
    return np.asarray((words << np.uint64(bits)) | (words >> np.uint64(64 - bits)))
