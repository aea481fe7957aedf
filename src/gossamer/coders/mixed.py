"""Mixed model: a matrix of codes around a pivot, each code predicted from its neighbours, its row and its column.

Pruned weights are far from independent: dead inputs empty whole columns, weak units thin out rows, and the weights of
neighbouring pixels keep the same sign. An element is coded as *is it the pivot?*, *above or below?*, and its distance.
The first two are predicted by logistic mixing (`walk`, after Mahoney 2005); distances go through the adaptive model,
one for each side. It is slow (about a million elements per second) and meant for arrays of at most `LARGEST` elements.
"""

from dataclasses import dataclass
from math import prod
from struct import Struct

import numpy as np

from gossamer.coders import adaptive, stream
from gossamer.coders.stream import Array, CoderName
from gossamer.coders.walk import Walk
from gossamer.errors import CodingError

LARGEST = 1 << 20
MOST_STEPS = 1 << 12  # a square of LARGEST has a quarter of it, so that one direction always fits
_PREFIX = Struct("<HBBB")  # pivot; 1 if a step is a column; lag; settings of the sides (below + 16 * above)
_SHORTEST_LAG, _LONGEST_LAG = 2, 64


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of the matrix: the first dimension, and all others together."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def least_bytes(shape: tuple[int, ...]) -> int:
    """Return how many bytes an array should take for its decoding time to be fair: two a step, one per 512 elements.

    A step costs a reader as much time as a long array of the other models, so a file may not have many for nothing.
    """
    return 2 * min(max(sides(shape)), MOST_STEPS) + prod(shape) // 512


def encode(symbols: Array, alphabet: int, coder: CoderName) -> bytes:
    """Return prefix and stream for the better direction of the walk.

    Raises:
        CodingError: the array is empty or too large.
    """
    if not 0 < symbols.size <= LARGEST:
        raise CodingError(f"the mixed model is for 1 to {LARGEST} elements, got {symbols.size}")
    matrix = symbols.reshape(sides(symbols.shape)).astype(np.int64)
    pivot = int(np.argmax(np.bincount(matrix.reshape(-1), minlength=alphabet)))
    best = search(matrix, pivot, alphabet)
    walked = matrix.T if best.across else matrix
    parted = [pivot - 1 - walked[walked < pivot], walked[walked > pivot] - pivot - 1]
    settings = [adaptive.choose(side, size)[0] for side, size in zip(parted, _distances(pivot, alphabet), strict=True)]
    parts: list[stream.Part] = [stream.Bits(best.set_bits, best.chances)]
    for side, size, setting in zip(parted, _distances(pivot, alphabet), settings, strict=True):
        parts.extend(adaptive.parts(side, size, setting))
    return _PREFIX.pack(pivot, best.across, best.lag, settings[0] + 16 * settings[1]) + stream.write(parts, coder)


def search(matrix: Array, pivot: int, alphabet: int) -> "Trial":
    """Return the better direction of the walk."""
    ways = [across for across in (False, True) if matrix.shape[across] <= MOST_STEPS]
    return min((Trial.run(matrix, pivot, alphabet, across) for across in ways), key=lambda trial: trial.bits)


def decode(data: bytes, shape: tuple[int, ...], alphabet: int, coder: CoderName) -> Array:
    """Return the flat symbols.

    Raises:
        CodingError: the prefix or the stream is malformed, or a bound is passed.
    """
    if not 0 < prod(shape) <= LARGEST:
        raise CodingError(f"the mixed model is for 1 to {LARGEST} elements, got {prod(shape)}")
    if len(data) < _PREFIX.size:
        raise CodingError("a mixed stream is cut off in its prefix")
    pivot, across, lag, settings = _PREFIX.unpack_from(data)
    if pivot >= alphabet or across > 1 or not _SHORTEST_LAG <= lag <= _LONGEST_LAG:
        raise CodingError(f"a mixed stream has pivot {pivot} of {alphabet}, direction {across}, lag {lag}")
    reader = stream.read(data[_PREFIX.size :], coder)
    matrix = sides(shape)
    if matrix[across] > MOST_STEPS:
        raise CodingError(f"a mixed stream has at most {MOST_STEPS} steps, not {matrix[across]}")

    def code(chances: Array, step: int, lanes: slice | Array, *, sign: bool) -> Array:  # noqa: ARG001 the protocol
        return reader.bits(chances)

    signs = walk(matrix[::-1] if across else matrix, lag, pivot, alphabet).run(code)
    if pivot == alphabet - 1:  # one-sided walks say 1 for whatever is not the pivot
        signs = -signs
    walked = np.full(signs.shape, pivot, np.int32)
    below, above = _distances(pivot, alphabet)
    where = signs < 0
    walked[where] -= 1 + adaptive.take(reader, int(np.count_nonzero(where)), below, settings % 16)
    where = signs > 0
    walked[where] += 1 + adaptive.take(reader, int(np.count_nonzero(where)), above, settings // 16)
    return np.ascontiguousarray(walked.T if across else walked).reshape(-1)


@dataclass(frozen=True)
class Trial:
    """One direction of the walk: what was coded with which chances, and the bits that costs."""

    across: bool
    lag: int
    set_bits: Array
    chances: Array
    bits: float

    @classmethod
    def run(cls, matrix: Array, pivot: int, alphabet: int, across: bool) -> "Trial":  # noqa: FBT001 data
        """Walk in one direction and keep what was coded."""
        signs = np.sign((matrix.T if across else matrix) - pivot)
        lag = _best_lag(signs)
        known: list[Array] = [np.zeros(0, np.int64)]
        coded: list[Array] = [np.zeros(0, np.int64)]

        def code(chances: Array, step: int, lanes: slice | Array, *, sign: bool) -> Array:
            bits: Array = (signs[step, lanes] > 0 if sign else signs[step, lanes] != 0).astype(np.int64)
            known.append(bits)
            coded.append(chances)
            return bits

        walk(signs.shape, lag, pivot, alphabet).run(code)
        bits, chance = np.concatenate(known), np.concatenate(coded)
        share = np.where(bits, chance, (1 << 16) - chance) / (1 << 16)
        return cls(across, lag, bits, chance, float(-np.log2(share).sum()))


def _distances(pivot: int, alphabet: int) -> tuple[int, int]:
    """Return how many distances there are below and above the pivot."""
    return max(pivot, 1), max(alphabet - 1 - pivot, 1)


def walk(shape: tuple[int, ...], lag: int, pivot: int, alphabet: int) -> Walk:
    """Return the start of a walk over a matrix of ``shape``."""
    return Walk(shape[0], shape[1], lag, two_sided=0 < pivot < alphabet - 1)


def _best_lag(signs: Array) -> int:
    """Return the distance between steps at which signs agree most beyond chance, such as the width of an image."""
    best, lag = 0.0, _SHORTEST_LAG
    small = signs.astype(np.float32)
    for candidate in range(_SHORTEST_LAG, min(_LONGEST_LAG, len(signs) // 2) + 1):
        here, back = small[candidate:], small[:-candidate]
        both = float(np.count_nonzero(here * back))
        score = abs(float(np.vdot(here, back))) / np.sqrt(both + 1.0)
        if score > 1.1 * best:
            best, lag = score, candidate
    return lag
