"""Outlined model: a matrix of codes, each told from the level of its row and column and a mean of low rank.

The outline (`outline`) gives every element a mean and a deviation before anything is decoded. Elements of like deviation
and like fraction of the mean form a class; what is coded is the distance to the rounded mean, with a table of the
class: a bell curve (`curves`) plus what the class held in the blocks before. So decoding is vectorised, at any size.
"""

from collections.abc import Iterator
from math import prod
from struct import Struct

import numpy as np

from gossamer.coders import outline, stream
from gossamer.coders.curves import SHAPES, TAIL_BITS, tail
from gossamer.coders.fit import fit
from gossamer.coders.outline import SCALES, TOP_LEVEL, UNIT, Outline
from gossamer.coders.stream import Array, CoderName
from gossamer.errors import CodingError

FARTHEST = 511  # greatest distance to a rounded mean
_FIRST, _LARGEST = 1 << 12, 1 << 18  # elements of the first block and of the largest; in between they double
_PREFIX = Struct("<HHB")  # pivot; greatest distance; shape of the curve + 4 * weight
_WEIGHTS = (1 << 4, 1 << 6, 1 << 8, 1 << 11)  # how many elements the curve counts for
_GAIN = 16
_MOST_PARTS = 8
_PARTS = np.minimum(np.maximum(2 * UNIT // SCALES, 1), _MOST_PARTS)  # of a fraction's range, by level
CLASSES = (TOP_LEVEL + 1) * _MOST_PARTS


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of the matrix: the first dimension, and all others together."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def encode(symbols: Array, alphabet: int, coder: CoderName) -> bytes:
    """Return prefix and stream.

    Raises:
        CodingError: the array is empty, or an element is too far from its mean.
    """
    if not symbols.size:
        raise CodingError("the outlined model is for arrays that have elements")
    matrix = symbols.reshape(sides(symbols.shape)).astype(np.int64)
    pivot = int(np.median(matrix))
    values = matrix - pivot
    found = fit(values)
    blocks = [_Block(found, some, pivot, alphabet) for some in _blocks(*matrix.shape)]
    distances = [block.distances(values[block.some]) for block in blocks]
    reach = max(int(np.abs(part).max()) for part in distances)
    if reach > FARTHEST:
        raise CodingError(f"the outlined model is for elements within {FARTHEST} of their mean, got {reach}")
    kinds = range(len(SHAPES) * len(_WEIGHTS))
    costs = [_bits(blocks, distances, reach, kind) for kind in kinds]
    kind = int(np.argmin(costs))
    head, parts = outline.write(found)
    tables = _Tables(reach, kind)
    for block, distance in zip(blocks, distances, strict=True):
        for number, at in block.classes():
            parts.append(stream.Symbols(distance[at] + reach, tables.frequencies(number)))
        tables.see(block.numbers, distance)
    return _PREFIX.pack(pivot, reach, kind) + head + stream.write(parts, coder)


def decode(data: bytes, shape: tuple[int, ...], alphabet: int, coder: CoderName) -> Array:
    """Return the flat symbols.

    Raises:
        CodingError: the prefix or the stream is malformed, or a symbol is outside the alphabet.
    """
    if len(data) < _PREFIX.size or not prod(shape):
        raise CodingError("an outlined stream is cut off in its prefix")
    pivot, reach, kind = _PREFIX.unpack_from(data)
    if pivot >= alphabet or reach > FARTHEST or kind >= len(SHAPES) * len(_WEIGHTS):
        raise CodingError(f"an outlined stream has pivot {pivot} of {alphabet}, distances to {reach}, curve {kind}")
    data = data[_PREFIX.size :]
    start = outline.length(data)
    reader = stream.read(data[start:], coder)
    known = outline.read(data[:start], reader, sides(shape))
    tables = _Tables(reach, kind)
    symbols = np.empty(sides(shape), np.int32)
    for some in _blocks(*symbols.shape):
        block = _Block(known, some, pivot, alphabet)
        distance = np.empty(block.numbers.size, np.int64)
        for number, at in block.classes():
            distance[at] = reader.symbols(tables.frequencies(number), at.size)
        distance -= reach
        tables.see(block.numbers, distance)
        symbols[some] = block.values(distance) + pivot
    if int(symbols.min()) < 0 or int(symbols.max()) >= alphabet:
        raise CodingError(f"an outlined stream holds a symbol outside 0 to {alphabet - 1}")
    return symbols.reshape(-1)


class _Block:
    """Some rows: the rounded mean of each element, whether its fraction is negative, and its class."""

    def __init__(self, known: Outline, some: slice, pivot: int, alphabet: int) -> None:
        self.some = some
        level = known.levels(some)
        mean = known.means(some, SCALES[level])
        self._nearest = np.minimum(np.maximum((mean + UNIT // 2) >> 6, -pivot), alphabet - 1 - pivot)
        fraction = np.minimum(np.maximum(mean - self._nearest * UNIT, -UNIT // 2), UNIT // 2)
        self._sign = np.where(fraction < 0, -1, 1)
        part = np.minimum(np.abs(fraction) * _PARTS[level] >> 5, _PARTS[level] - 1)
        self.numbers = (level * _MOST_PARTS + part).reshape(-1)

    def distances(self, values: Array) -> Array:
        """Return how far ``values`` are from the mean, on the side of its fraction."""
        return ((values - self._nearest) * self._sign).reshape(-1)

    def values(self, distances: Array) -> Array:
        """Return the values at ``distances``."""
        return np.asarray(distances.reshape(self._nearest.shape) * self._sign + self._nearest)

    def classes(self) -> Iterator[tuple[int, Array]]:
        """Yield each class that occurs, with the places of its elements."""
        order = np.argsort(self.numbers.astype(np.uint16), kind="stable")
        counts = np.bincount(self.numbers)
        for number, stop in zip(np.flatnonzero(counts), np.cumsum(counts[counts > 0]), strict=True):
            yield int(number), order[stop - counts[number] : stop]


class _Tables:
    """The table of every class: its curve and what it held."""

    def __init__(self, reach: int, kind: int) -> None:
        self._reach = reach
        self._shape, self._weight = SHAPES[kind % len(SHAPES)], _WEIGHTS[kind // len(SHAPES)]
        self._counts: Array = np.zeros((0, 2 * reach + 1), np.int64)

    def frequencies(self, number: int) -> Array:
        """Return the frequencies of distances from -reach to reach in class ``number``."""
        level, part = divmod(number, _MOST_PARTS)
        center = (2 * part + 1) * UNIT // (4 * int(_PARTS[level]))
        edges = np.arange(-self._reach, self._reach + 2) * UNIT - UNIT // 2 - center
        beyond = tail(self._shape, edges, SCALES[level])
        curve = (beyond[:-1] - beyond[1:]) * (self._weight * _GAIN) >> TAIL_BITS
        seen = self._counts[number] if number < len(self._counts) else 0
        return np.asarray(curve + seen * _GAIN + 1)

    def see(self, numbers: Array, distances: Array) -> None:
        """Count ``distances`` in their classes."""
        width = 2 * self._reach + 1
        top = int(numbers.max()) + 1
        if top > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros((top - len(self._counts), width), np.int64)])
        keys = numbers * width + distances + self._reach
        self._counts += np.bincount(keys, minlength=self._counts.size).reshape(self._counts.shape)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of rows: blocks that double."""
    start, size = 0, _FIRST
    while start < rows:
        stop = min(start + max(size // columns, 1), rows)
        yield slice(start, stop)
        start, size = stop, min(2 * size, _LARGEST)


def _bits(blocks: list[_Block], distances: list[Array], reach: int, kind: int) -> float:
    """Return the bits that a perfect coder spends."""
    tables = _Tables(reach, kind)
    total = 0.0
    for block, distance in zip(blocks, distances, strict=True):
        for number, at in block.classes():
            frequencies = tables.frequencies(number)
            counts = np.bincount(distance[at] + reach, minlength=frequencies.size)
            total += float(counts @ (np.log2(frequencies.sum()) - np.log2(frequencies)))
        tables.see(block.numbers, distance)
    return total
