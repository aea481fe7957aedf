"""Classes of the elements of an outlined matrix, and the table of each class.

Around the mean, a class is a level and the fraction of the mean, and its table starts as a bell curve (`curves`);
around zero, it is half a level and how many deviations the mean is, and its table starts as one that was sent.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from gossamer.coders.curves import SHAPES, TAIL_BITS, tail
from gossamer.coders.outline import SCALES, TOP_LEVEL, UNIT, Outline
from gossamer.coders.stream import Array
from gossamer.coders.table import frequencies_of

_FIRST, _GROWTH, _LARGEST = 1 << 9, 4, 1 << 17  # elements of the first block; a block is a fourth of those before it
AROUND_ZERO = len(SHAPES)  # the kind, modulo 4, without a curve
_WEIGHTS = (1 << 4, 1 << 6, 1 << 8, 1 << 11)  # how many elements the curve counts for
_SENT_WEIGHTS = (3, 6, 12, 48)  # how many elements the table that is sent counts for
KINDS = 4 * len(_WEIGHTS)
GAIN = 64
_PARTS = 8
_FRACTIONS = np.minimum(np.maximum(2 * UNIT // SCALES, 1), _PARTS)  # parts of a fraction's range, by level
_EDGES = np.arange(1, _PARTS) ** 2  # of the mean, in sixteenths of a deviation
_RATIOS = np.searchsorted(_EDGES, np.arange(_EDGES[-1] + 1), side="right").astype(np.uint8)  # part, by sixteenths


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of rows, blocks that grow."""
    start = 0
    while start < rows:
        size = min(max(start * columns // _GROWTH, _FIRST), _LARGEST)
        stop = min(start + max(size // columns, 1), rows)
        yield slice(start, stop)
        start = stop


class Plan:
    """How the outline of a matrix gives anchors and classes."""

    def __init__(self, known: Outline, pivot: int, alphabet: int, *, around_zero: bool) -> None:
        self.known = known
        self.around_zero = around_zero
        self._bounds = -pivot, alphabet - 1 - pivot
        part = np.arange(UNIT // 2 + 1) * 2 * _FRACTIONS[:, None] // UNIT
        part = np.minimum(part, _FRACTIONS[:, None] - 1)
        self._numbers = (np.arange(TOP_LEVEL + 1)[:, None] * _PARTS + part).astype(np.uint16).reshape(-1)
        # Rows of one level share all that follows from levels.
        kinds, self._kind = np.unique(known.rows, return_inverse=True)
        level = known.levels(kinds)
        self._scale = SCALES.astype(np.float64)[level] / (1 << 16)
        self._first = (level >> 1) * _PARTS if around_zero else level * (UNIT // 2 + 1)
        self._plain = (self._first if around_zero else self._numbers.take(self._first)).astype(np.uint16)

    def block(self, some: slice) -> "Block":
        """Return anchors and classes of ``some`` rows."""
        if not self.known.gains.size:
            zero, one = np.zeros((1, 1), np.int32), np.ones((1, 1), np.int32)
            return Block(some, zero, one, self._plain[self._kind[some]])
        first = self._first[self._kind[some]]
        share = self.known.shares(some)
        if self.around_zero:
            part = _RATIOS[np.minimum(np.abs(share) / 4096, _EDGES[-1]).astype(np.uint8)]
            side = np.where(share < 0, -1, 1).astype(np.int32)
            return Block(some, np.zeros((1, 1), np.int32), side, (first + part).astype(np.uint16))
        share *= self._scale[self._kind[some]]
        mean = np.floor(share, out=share).astype(np.int32)
        anchor = (mean + UNIT // 2) >> 6
        np.minimum(np.maximum(anchor, self._bounds[0], out=anchor), self._bounds[1], out=anchor)
        mean -= anchor << 6
        side = (mean >> 31) | 1
        first += np.minimum(np.abs(mean, out=mean), UNIT // 2, out=mean)
        return Block(some, anchor, side, self._numbers.take(first))

    def reach(self, values: Array) -> int:
        """Return the greatest distance of ``values`` from their anchors."""
        if self.around_zero or not self.known.gains.size:
            return max(int(values.max()), -int(values.min()))  # every anchor is zero
        return max(int(np.abs(self.block(some).distances(values[some])).max()) for some in blocks(*values.shape))


class Block:
    """Some rows: the anchor of each element, the side its mean is on (1 or -1), and its class."""

    def __init__(self, some: slice, anchor: Array, side: Array, numbers: Array) -> None:
        self.some = some
        self._shape = numbers.shape
        self.anchor, self.side = anchor, side
        self.numbers = numbers.reshape(-1)

    @cached_property
    def classes(self) -> list[tuple[int, int]]:
        """Return each class that occurs, and how many elements it has."""
        counts = np.bincount(self.numbers)
        present = np.flatnonzero(counts)
        return list(zip(present.tolist(), counts[present].tolist(), strict=True))

    @cached_property
    def order(self) -> Array:
        """Return the places of the elements, class by class."""
        return np.argsort(self.numbers, kind="stable")

    def parted(self, elements: Array) -> Iterator[tuple[int, Array]]:
        """Yield each class that occurs, and those of ``elements`` (flat) that are in it."""
        ordered = elements if len(self.classes) == 1 else elements.take(self.order)
        start = 0
        for number, count in self.classes:
            yield number, ordered[start : start + count]
            start += count

    def joined(self, parts: list[Array]) -> Array:
        """Return the elements, flat, whose classes hold ``parts``: the inverse of `parted`."""
        if len(parts) == 1:
            return parts[0]
        elements = np.empty(self.numbers.size, parts[0].dtype)
        elements[self.order] = np.concatenate(parts)
        return elements

    def distances(self, values: Array) -> Array:
        """Return how far ``values`` are from the anchor, on the side of the mean."""
        return np.asarray((values - self.anchor) * self.side).reshape(-1)

    def values(self, distances: Array) -> Array:
        """Return the values at ``distances``."""
        return np.asarray(distances.reshape(self._shape) * self.side + self.anchor)


class Tables:
    """The table of every class: what was known of it, and what it held."""

    def __init__(self, reach: int, kind: int, sent: Array) -> None:
        self._reach = reach
        self._kind = kind % 4
        around_zero = self._kind == AROUND_ZERO
        self._weight = (_SENT_WEIGHTS if around_zero else _WEIGHTS)[kind // 4] * GAIN
        self._known: dict[int, Array] = {}
        if around_zero:
            sent = frequencies_of(sent)
            self._sent = sent * self._weight // max(int(sent.sum()), 1) + 1

    def frequencies(self, number: int) -> Array:
        """Return the frequencies of distances from -reach to reach in class ``number``, by now."""
        if number not in self._known:
            self._known[number] = self._sent if self._kind == AROUND_ZERO else self._curve(number)
        return self._known[number]

    def see(self, number: int, symbols: Array) -> None:
        """Count ``symbols``, distances from -reach up, in class ``number``."""
        self.count(number, np.bincount(symbols, minlength=2 * self._reach + 1))

    def count(self, number: int, counts: Array) -> None:
        """Add ``counts`` to class ``number``."""
        self._known[number] = self.frequencies(number) + counts * GAIN

    def _curve(self, number: int) -> Array:
        level, part = divmod(number, _PARTS)
        center = (2 * part + 1) * UNIT // (4 * int(_FRACTIONS[level]))
        edges = np.arange(-self._reach, self._reach + 2) * UNIT - UNIT // 2 - center
        beyond = tail(SHAPES[self._kind], edges, SCALES[level])
        return np.asarray(((beyond[:-1] - beyond[1:]) * self._weight >> TAIL_BITS) + 1)
