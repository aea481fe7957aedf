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
_RATIOS = np.searchsorted(_EDGES, np.arange(_EDGES[-1] + 1), side="right").astype(np.uint8)  # part, by sixteenths
_SAMPLE = 1 << 20  # elements that the kind is chosen by
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
    matrix = symbols.reshape(sides(symbols.shape)).astype(np.int32)
    pivot = int(np.median(matrix))
    values = matrix - pivot
    found = fit(values)
    trials = [_Trial(found, values, pivot, alphabet, around_zero=way) for way in (False, True)]
    best = min(trials, key=lambda trial: trial.bits)
    if best.reach > FARTHEST:
        raise CodingError(f"the outlined model is for elements within {FARTHEST} of their mean, got {best.reach}")
    head, parts = outline.write(found)
    return _PREFIX.pack(pivot, best.reach, best.kind) + best.sent + head + stream.write([*parts, *best.parts()], coder)


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
    plan = _Plan(known, pivot, alphabet, around_zero=around_zero)
    symbols = np.empty(sides(shape), np.int32)
    for some in _blocks(*symbols.shape):
        block = plan.block(some)
        parted = [_taken(reader, tables, number, at.size) for number, at in block.classes()]
        distance = np.empty(block.numbers.size, np.int32)
        distance[block.order] = np.concatenate(parted)
        symbols[some] = block.values(distance - reach) + pivot
    if int(symbols.min()) < 0 or int(symbols.max()) >= alphabet:
        raise CodingError(f"an outlined stream holds a symbol outside 0 to {alphabet - 1}")
    return symbols.reshape(-1)


def _taken(reader: stream.Reader, tables: "_Tables", number: int, count: int) -> Array:
    """Return the next symbols, all of one class, and count them."""
    symbols = reader.symbols(tables.frequencies(number), count)
    tables.see(number, symbols)
    return symbols


class _Plan:
    """How the outline of a matrix gives anchors and classes."""

    def __init__(self, known: Outline, pivot: int, alphabet: int, *, around_zero: bool) -> None:
        self._known = known
        self._around_zero = around_zero
        self._bounds = -pivot, alphabet - 1 - pivot
        level = np.arange(TOP_LEVEL + 1)[:, None]
        part = np.arange(UNIT // 2 + 1) * 2 * _FRACTIONS[:, None] // UNIT
        self._parts = (level * _PARTS + np.minimum(part, _FRACTIONS[:, None] - 1)).astype(np.uint16)

    def block(self, some: slice) -> "_Block":
        """Return anchors and classes of ``some`` rows."""
        level, share = self._known.levels(some), self._known.shares(some)
        if self._around_zero:
            part = _RATIOS[np.minimum(np.abs(share) / 4096, _EDGES[-1]).astype(np.uint8)]
            numbers = (level >> 1).astype(np.uint16) * _PARTS + part
            return _Block(some, np.zeros(share.shape, np.int32), np.where(share < 0, -1, 1).astype(np.int32), numbers)
        mean = np.floor(share * SCALES.astype(np.float64)[level] / 65536).astype(np.int32)
        anchor = np.minimum(np.maximum((mean + UNIT // 2) >> 6, self._bounds[0]), self._bounds[1])
        rest = np.minimum(np.maximum(mean - (anchor << 6), -UNIT // 2), UNIT // 2)
        numbers = self._parts.reshape(-1)[level.astype(np.int32) * self._parts.shape[1] + np.abs(rest)]
        return _Block(some, anchor, (rest >> 31) | 1, numbers)


class _Block:
    """Some rows: the anchor of each element, the side its mean is on (1 or -1), and its class."""

    def __init__(self, some: slice, anchor: Array, side: Array, numbers: Array) -> None:
        self.some = some
        self._anchor, self._side = anchor, side
        self.numbers = numbers.reshape(-1)
        self.order = np.argsort(self.numbers, kind="stable")

    def distances(self, values: Array) -> Array:
        """Return how far ``values`` are from the anchor, on the side of the mean."""
        return np.asarray((values - self._anchor) * self._side).reshape(-1)

    def values(self, distances: Array) -> Array:
        """Return the values at ``distances``."""
        return np.asarray(distances.reshape(self._anchor.shape) * self._side + self._anchor)

    def classes(self) -> Iterator[tuple[int, Array]]:
        """Yield each class that occurs, with the places of its elements; all together they are ``order``."""
        counts = np.bincount(self.numbers)
        present = np.flatnonzero(counts)
        for number, stop in zip(present.tolist(), np.cumsum(counts[present]).tolist(), strict=True):
            yield number, self.order[stop - int(counts[number]) : stop]


class _Tables:
    """The table of every class: what was known of it, and what it held."""

    def __init__(self, reach: int, kind: int, sent: Array) -> None:
        self._reach = reach
        self._kind = kind % 4
        around_zero = self._kind == _AROUND_ZERO
        self._weight = (_SENT_WEIGHTS if around_zero else _WEIGHTS)[kind // 4] * _GAIN
        self._known: dict[int, Array] = {}
        if around_zero:
            sent = frequencies_of(sent)
            self._sent = sent * self._weight // max(int(sent.sum()), 1) + 1

    def frequencies(self, number: int) -> Array:
        """Return the frequencies of distances from -reach to reach in class ``number``, by now."""
        if number not in self._known:
            self._known[number] = self._sent if self._kind == _AROUND_ZERO else self._curve(number)
        return self._known[number]

    def see(self, number: int, symbols: Array) -> None:
        """Count ``symbols``, distances from -reach up, in class ``number``."""
        self.count(number, np.bincount(symbols, minlength=2 * self._reach + 1))

    def count(self, number: int, counts: Array) -> None:
        """Add ``counts`` to class ``number``."""
        self._known[number] = self.frequencies(number) + counts * _GAIN

    def _curve(self, number: int) -> Array:
        level, part = divmod(number, _PARTS)
        center = (2 * part + 1) * UNIT // (4 * int(_FRACTIONS[level]))
        edges = np.arange(-self._reach, self._reach + 2) * UNIT - UNIT // 2 - center
        beyond = tail(SHAPES[self._kind], edges, SCALES[level])
        return np.asarray(((beyond[:-1] - beyond[1:]) * self._weight >> TAIL_BITS) + 1)


class _Trial:
    """One way to code some values with an outline: its best kind and the bits that takes, from the first of them."""

    def __init__(self, found: Outline, values: Array, pivot: int, alphabet: int, *, around_zero: bool) -> None:
        self._plan = _Plan(found, pivot, alphabet, around_zero=around_zero)
        self._values = values
        self.reach = self._farthest()
        self.sent, self.bits, self.kind = b"", float("inf"), 0
        self._levels = np.zeros(0, np.int64)
        if self.reach > FARTHEST:
            return
        held = [
            self._held(self._plan.block(some))
            for some in _blocks(*values.shape)
            if some.start * values.shape[1] < _SAMPLE
        ]
        if around_zero:
            self._levels = levels_of(np.sum([counts for block in held for _, counts in block], axis=0))
            self.sent = write_table(self._levels)
        kinds = [kind for kind in range(_KINDS) if (kind % 4 == _AROUND_ZERO) == around_zero]
        self.bits, self.kind = min((self._cost(held, kind), kind) for kind in kinds)
        self.bits += 8 * len(self.sent)

    def parts(self) -> Iterator[stream.Part]:
        """Yield what is coded, class by class."""
        tables = _Tables(self.reach, self.kind, self._levels)
        for some in _blocks(*self._values.shape):
            block = self._plan.block(some)
            symbols = block.distances(self._values[some]) + self.reach
            for number, at in block.classes():
                yield stream.Symbols(symbols[at], tables.frequencies(number))
                tables.see(number, symbols[at])

    def _farthest(self) -> int:
        blocks = (self._plan.block(some) for some in _blocks(*self._values.shape))
        return max(int(np.abs(block.distances(self._values[block.some])).max()) for block in blocks)

    def _held(self, block: _Block) -> list[tuple[int, Array]]:
        """Return how often each distance occurs in each class of a block."""
        symbols = block.distances(self._values[block.some]) + self.reach
        return [(number, np.bincount(symbols[at], minlength=2 * self.reach + 1)) for number, at in block.classes()]

    def _cost(self, held: list[list[tuple[int, Array]]], kind: int) -> float:
        """Return the bits that a perfect coder spends."""
        tables = _Tables(self.reach, kind, self._levels)
        total = 0.0
        for number, counts in (item for block in held for item in block):
            frequencies = tables.frequencies(number)
            total += float(counts @ (np.log2(frequencies.sum()) - np.log2(frequencies)))
            tables.count(number, counts)
        return total


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of rows, blocks that grow."""
    start = 0
    while start < rows:
        size = min(max(start * columns // _GROWTH, _FIRST), _LARGEST)
        stop = min(start + max(size // columns, 1), rows)
        yield slice(start, stop)
        start = stop
