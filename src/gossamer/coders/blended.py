"""Blended model: the outline of a matrix, and a walk that learns what the outline does not say.

The outline (`outline`) gives means and deviations; the walk (`decisions`) moves the means by the errors of neighbours,
as pixels and positions of a kernel are alike, and mixes the bell curves with how decisions went before. It is slow
(about 300,000 elements per second) and meant for arrays of at most `LARGEST` elements.
"""

from dataclasses import dataclass
from math import prod
from struct import Struct

import numpy as np

from gossamer.coders import outline, stream
from gossamer.coders.decisions import Decisions, Given
from gossamer.coders.outline import SCALES, UNIT, Outline
from gossamer.coders.outlined import median, search, sides
from gossamer.coders.stream import Array, CoderName
from gossamer.errors import CodingError

LARGEST = 1 << 20
MOST_STEPS = 1 << 12
_PREFIX = Struct("<HBB5b")  # pivot; 1 if a step is a column; lag; weights
_SHORTEST_LAG, _LONGEST_LAG = 2, 64
_MOST_WEIGHT = 127


def least_bytes(shape: tuple[int, ...], alphabet: int) -> int:
    """Return how many bytes an array should take for its decoding time to be fair, by the steps and their decisions."""
    return 2 * (1 + alphabet.bit_length()) * min(max(sides(shape)), MOST_STEPS) + prod(shape) // 128


def encode(symbols: Array, alphabet: int, coder: CoderName) -> bytes:
    """Return prefix and stream for the better direction of the walk.

    Raises:
        CodingError: the array is empty or too large.
    """
    if not 0 < symbols.size <= LARGEST:
        raise CodingError(f"the blended model is for 1 to {LARGEST} elements, got {symbols.size}")
    matrix = symbols.reshape(sides(symbols.shape)).astype(np.int64)
    pivot = median(matrix, alphabet)
    known = search(matrix.astype(np.int32) - pivot, pivot, alphabet).plan.known
    ways = [across for across in (False, True) if matrix.shape[across] <= MOST_STEPS]
    tried = [_Trial.run(matrix - pivot, known, (pivot, alphabet - 1 - pivot), across) for across in ways]
    best = min(tried, key=lambda trial: trial.bits)
    head, parts = outline.write(known)
    parts.append(stream.Bits(best.decided, best.chances))
    prefix = _PREFIX.pack(pivot, best.across, best.given.lag, *best.given.weights)
    return prefix + head + stream.write(parts, coder)


def decode(data: bytes, shape: tuple[int, ...], alphabet: int, coder: CoderName) -> Array:
    """Return the flat symbols.

    Raises:
        CodingError: the prefix or the stream is malformed, or a bound is passed.
    """
    if not 0 < prod(shape) <= LARGEST:
        raise CodingError(f"the blended model is for 1 to {LARGEST} elements, got {prod(shape)}")
    if len(data) < _PREFIX.size:
        raise CodingError("a blended stream is cut off in its prefix")
    pivot, across, lag, *weights = _PREFIX.unpack_from(data)
    if pivot >= alphabet or across > 1:
        raise CodingError(f"a blended stream has pivot {pivot} of {alphabet}, direction {across}")
    steps = sides(shape)[across]
    if not _SHORTEST_LAG <= lag <= _farthest(steps) or steps > MOST_STEPS:
        raise CodingError(f"a blended stream has {steps} steps and lag {lag}")
    data = data[_PREFIX.size :]
    start = outline.length(data)
    reader = stream.read(data[start:], coder)
    known = outline.read(data[:start], reader, sides(shape))

    def code(chances: Array, step: int, lanes: Array, least: Array | int) -> Array:  # noqa: ARG001 the protocol's names
        return reader.bits(chances)

    given = _given(known, across=bool(across), lag=lag, weights=tuple(weights), greatest=(pivot, alphabet - 1 - pivot))
    walked = Decisions(given).run(code) + pivot
    return np.ascontiguousarray(walked.T if across else walked).reshape(-1)


@dataclass(frozen=True)
class _Trial:
    """One direction of the walk: what was decided with which chances, and the bits that costs."""

    across: bool
    given: Given
    decided: Array
    chances: Array
    bits: float

    @classmethod
    def run(cls, values: Array, known: Outline, greatest: tuple[int, int], across: bool) -> "_Trial":  # noqa: FBT001 data
        given = _given(known, across=across, lag=_SHORTEST_LAG, weights=(0,) * 5, greatest=greatest)
        walked = np.ascontiguousarray(values.T) if across else values
        errors = (walked - given.means / UNIT) / (given.deviations / UNIT)
        lag = _best_lag(errors)
        given = given._replace(lag=lag, weights=_best_weights(errors, lag))
        decided: list[Array] = []
        coded: list[Array] = []

        def code(chances: Array, step: int, lanes: Array, least: Array | int) -> Array:
            value = walked[step, lanes]
            bits: Array = (np.abs(value) >= least if np.any(least) else value > 0).astype(np.int64)
            decided.append(bits)
            coded.append(chances)
            return bits

        Decisions(given).run(code)
        bits, chance = np.concatenate(decided), np.concatenate(coded)
        share = np.where(bits, chance, (1 << 16) - chance) / (1 << 16)
        return cls(across, given, bits, chance, float(-np.log2(share).sum()))


def _given(known: Outline, *, across: bool, lag: int, weights: tuple[int, ...], greatest: tuple[int, int]) -> Given:
    deviation = SCALES[known.levels(known.rows)]
    mean = np.floor(known.shares() * deviation / (1 << 16)).astype(np.int64)
    if across:
        mean, deviation = np.ascontiguousarray(mean.T), np.ascontiguousarray(deviation.T)
    return Given(mean, deviation, lag, weights, *greatest)


def _farthest(steps: int) -> int:
    """Return the longest lag that may pay."""
    return max(min(_LONGEST_LAG, steps // 2), _SHORTEST_LAG)


def _best_lag(errors: Array) -> int:
    """Return the distance between steps at which errors are most alike, such as the width of an image."""
    best, lag = 0.0, _SHORTEST_LAG
    small = np.clip(errors, -4, 4).astype(np.float32)
    for candidate in range(_SHORTEST_LAG, _farthest(len(errors)) + 1):
        here, back = small[candidate:], small[: len(small) - candidate]
        score = abs(float(np.vdot(here, back))) / max(here.size, 1) ** 0.5
        if score > 1.1 * best:
            best, lag = score, candidate
    return lag


def _best_weights(errors: Array, lag: int) -> tuple[int, ...]:
    """Return the weights of least squares for the errors of the neighbours, in 1/64."""
    before = np.concatenate([np.zeros((lag + 1, errors.shape[1])), np.clip(errors, -4, 4)])
    back = (1, lag, lag - 1, lag + 1, 2)
    seen = np.stack([before[lag + 1 - far : len(before) - far].reshape(-1) for far in back])
    if lag == _SHORTEST_LAG:
        seen[[2, 4]] = 0  # the same neighbours as the first and second
    gram = seen @ seen.T + 1e-3 * errors.size * np.eye(len(back))
    found = np.linalg.solve(gram, seen @ np.clip(errors, -4, 4).reshape(-1)) * 64
    return tuple(int(weight) for weight in np.clip(np.rint(found), -_MOST_WEIGHT, _MOST_WEIGHT))
