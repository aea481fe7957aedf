"""Outlined model: a matrix of codes, each told from the level of its row and column and a mean of low rank.

The outline (`outline`) gives every element a mean and a deviation before anything is decoded. Elements of like mean and
deviation form a class with a table of its own, so decoding is vectorised, at any size. There are two ways:

- around the mean, for codes that are close to normal: what is coded is the distance to the rounded mean, its class is the
  deviation and the fraction of the mean, its table a bell curve (`curves`) plus what the class held before;
- around zero, for sparse codes: what is coded is the code, turned to the side of its mean, its class is the deviation
  and how many deviations the mean is, its table one that is sent, for all classes, plus what the class held before.
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
from gossamer.coders.table import frequencies_of, levels_of, read_table, write_table
from gossamer.errors import CodingError

FARTHEST = 511  # greatest distance coded
_FIRST, _GROWTH, _LARGEST = 1 << 9, 4, 1 << 18  # elements of the first block; a block is a fourth of those before it
_PREFIX = Struct("<HHB")  # pivot; greatest distance; kind
_AROUND_ZERO = len(SHAPES)  # the kind, modulo 4, without a curve
_WEIGHTS = (1 << 4, 1 << 6, 1 << 8, 1 << 11)  # how many elements the curve counts for
_SENT_WEIGHTS = (3, 6, 12, 48)  # how many elements the table that is sent counts for
_KINDS = (len(SHAPES) + 1) * len(_WEIGHTS)
_GAIN = 64
_PARTS = 8
_FRACTIONS = np.minimum(np.maximum(2 * UNIT // SCALES, 1), _PARTS)  # parts of a fraction's range, by level
_EDGES = np.arange(1, _PARTS) ** 2  # of the mean, in sixteenths of a deviation
CLASSES = (TOP_LEVEL + 1) * _PARTS


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of the matrix: the first dimension, and all others together."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def encode(symbols: Array, alphabet: int, coder: CoderName) -> bytes:
    """Return prefix and stream of the shorter way.

    Raises:
        CodingError: the array is empty, or an element is too far from its mean.
    """
    if not symbols.size:
        raise CodingError("the outlined model is for arrays that have elements")
    matrix = symbols.reshape(sides(symbols.shape)).astype(np.int64)
    pivot = int(np.median(matrix))
    values = matrix - pivot
    found = fit(values)
    trials = [_Trial(found, values, pivot, alphabet, around_zero=way) for way in (False, True)]
    best = min(trials, key=lambda trial: trial.bits)
    if best.reach > FARTHEST:
        raise CodingError(f"the outlined model is for elements within {FARTHEST} of their mean, got {best.reach}")
    head, parts = outline.write(found)
    return _PREFIX.pack(pivot, best.reach, best.kind) + best.sent + head + stream.write(parts + best.parts(), coder)


def decode(data: bytes, shape: tuple[int, ...], alphabet: int, coder: CoderName) -> Array:
    """Return the flat symbols.

    Raises:
        CodingError: the prefix or the stream is malformed, or a symbol is outside the alphabet.
    """
    if len(data) < _PREFIX.size or not prod(shape):
        raise CodingError("an outlined stream is cut off in its prefix")
    pivot, reach, kind = _PREFIX.unpack_from(data)
    if pivot >= alphabet or reach > FARTHEST or kind >= _KINDS:
        raise CodingError(f"an outlined stream has pivot {pivot} of {alphabet}, distances to {reach}, kind {kind}")
    data = data[_PREFIX.size :]
    around_zero = kind % 4 == _AROUND_ZERO
    sent = np.zeros(0, np.int64)
    if around_zero:
        sent, taken = read_table(data, 2 * reach + 1)
        data = data[taken:]
    start = outline.length(data)
    reader = stream.read(data[start:], coder)
    known = outline.read(data[:start], reader, sides(shape))
    tables = _Tables(reach, kind, sent)
    symbols = np.empty(sides(shape), np.int32)
    for some in _blocks(*symbols.shape):
        block = _Block(known, some, pivot, alphabet, around_zero=around_zero)
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
    """Some rows: the anchor of each element, the side its mean is on, and its class."""

    def __init__(self, known: Outline, some: slice, pivot: int, alphabet: int, *, around_zero: bool) -> None:
        self.some = some
        level = known.levels(some)
        deviation = SCALES[level]
        mean = known.means(some, deviation)
        self._sign: Array
        self._anchor: Array
        if around_zero:
            self._anchor = np.zeros_like(mean)
            part = np.searchsorted(_EDGES, np.abs(mean) * 16 // deviation, side="right")
            level, rest = level >> 1, mean
        else:
            self._anchor = np.minimum(np.maximum((mean + UNIT // 2) // UNIT, -pivot), alphabet - 1 - pivot)
            rest = np.minimum(np.maximum(mean - self._anchor * UNIT, -UNIT // 2), UNIT // 2)
            part = np.minimum(np.abs(rest) * _FRACTIONS[level] * 2 // UNIT, _FRACTIONS[level] - 1)
        self._sign = np.where(rest < 0, -1, 1)
        self.numbers = (level * _PARTS + part).reshape(-1)

    def distances(self, values: Array) -> Array:
        """Return how far ``values`` are from the anchor, on the side of the mean."""
        return ((values - self._anchor) * self._sign).reshape(-1)

    def values(self, distances: Array) -> Array:
        """Return the values at ``distances``."""
        return np.asarray(distances.reshape(self._anchor.shape) * self._sign + self._anchor)

    def classes(self) -> Iterator[tuple[int, Array]]:
        """Yield each class that occurs, with the places of its elements."""
        order = np.argsort(self.numbers.astype(np.uint16), kind="stable")
        counts = np.bincount(self.numbers)
        for number, stop in zip(np.flatnonzero(counts), np.cumsum(counts[counts > 0]), strict=True):
            yield int(number), order[stop - counts[number] : stop]


class _Tables:
    """The table of every class: what was known of it, and what it held."""

    def __init__(self, reach: int, kind: int, sent: Array) -> None:
        self._reach = reach
        self._kind = kind % 4
        around_zero = self._kind == _AROUND_ZERO
        self._weight = (_SENT_WEIGHTS if around_zero else _WEIGHTS)[kind // 4] * _GAIN
        self._counts: Array = np.zeros((0, 2 * reach + 1), np.int64)
        if around_zero:
            sent = frequencies_of(sent)
            self._sent = sent * self._weight // max(int(sent.sum()), 1) + 1

    def frequencies(self, number: int) -> Array:
        """Return the frequencies of distances from -reach to reach in class ``number``."""
        known = self._sent if self._kind == _AROUND_ZERO else self._curve(number)
        seen = self._counts[number] if number < len(self._counts) else 0
        return np.asarray(known + seen * _GAIN)

    def see(self, numbers: Array, distances: Array) -> None:
        """Count ``distances`` in their classes."""
        top = int(numbers.max()) + 1
        width = 2 * self._reach + 1
        if top > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros((top - len(self._counts), width), np.int64)])
        keys = numbers * width + distances + self._reach
        self._counts += np.bincount(keys, minlength=self._counts.size).reshape(self._counts.shape)

    def _curve(self, number: int) -> Array:
        level, part = divmod(number, _PARTS)
        center = (2 * part + 1) * UNIT // (4 * int(_FRACTIONS[level]))
        edges = np.arange(-self._reach, self._reach + 2) * UNIT - UNIT // 2 - center
        beyond = tail(SHAPES[self._kind], edges, SCALES[level])
        return np.asarray(((beyond[:-1] - beyond[1:]) * self._weight >> TAIL_BITS) + 1)


class _Trial:
    """One way to code some values with an outline: its best kind and the bits that takes."""

    def __init__(self, found: Outline, values: Array, pivot: int, alphabet: int, *, around_zero: bool) -> None:
        self._blocks = [_Block(found, some, pivot, alphabet, around_zero=around_zero) for some in _blocks(*values.shape)]
        self._distances = [block.distances(values[block.some]) for block in self._blocks]
        self.reach = max(int(np.abs(part).max()) for part in self._distances)
        self.sent, self.bits, self.kind = b"", float("inf"), 0
        self._levels = np.zeros(0, np.int64)
        if self.reach > FARTHEST:
            return
        if around_zero:
            together = np.concatenate(self._distances) + self.reach
            self._levels = levels_of(np.bincount(together, minlength=2 * self.reach + 1))
            self.sent = write_table(self._levels)
        kinds = [kind for kind in range(_KINDS) if (kind % 4 == _AROUND_ZERO) == around_zero]
        costs = [self._cost(kind) for kind in kinds]
        self.bits, self.kind = min(zip(costs, kinds, strict=True))
        self.bits += 8 * len(self.sent)

    def parts(self) -> list[stream.Part]:
        """Return what is coded, class by class."""
        return [stream.Symbols(symbols, frequencies) for symbols, frequencies in self._coded(self.kind)]

    def _coded(self, kind: int) -> Iterator[tuple[Array, Array]]:
        tables = _Tables(self.reach, kind, self._levels)
        for block, distance in zip(self._blocks, self._distances, strict=True):
            for number, at in block.classes():
                yield distance[at] + self.reach, tables.frequencies(number)
            tables.see(block.numbers, distance)

    def _cost(self, kind: int) -> float:
        """Return the bits that a perfect coder spends."""
        total = 0.0
        for symbols, frequencies in self._coded(kind):
            total -= float(np.log2(frequencies / frequencies.sum())[symbols].sum())
        return total


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of rows, blocks that grow."""
    start = 0
    while start < rows:
        size = min(max(start * columns // _GROWTH, _FIRST), _LARGEST)
        stop = min(start + max(size // columns, 1), rows)
        yield slice(start, stop)
        start = stop
