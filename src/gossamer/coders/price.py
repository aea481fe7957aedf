"""What elements cost under the models that will code them: bits of the values they have and of others they might have.

Quantization that weighs error against bits asks, element by element, for the price of a few candidates. A price holds
in the context of the matrix as it is: where many values change, ask anew.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

from gossamer.coders import adaptive, mixed, outlined
from gossamer.coders.classes import Tables, blocks
from gossamer.coders.stream import Array

NEVER = np.float32(64.0)
"""Bits of a value that the tables as they are cannot code."""


@dataclass(frozen=True)
class Prices(ABC):
    """Bits of each element of a matrix.

    Attributes:
        zero: (rows, columns), float32: of being zero.
        below: of being below zero, the magnitude apart.
        above: of being above zero, the magnitude apart.
    """

    zero: Array
    below: Array
    above: Array

    @abstractmethod
    def bits(self, values: Array) -> Array:
        """Return the bits of each element if it were the one of ``values``, whole numbers (rows, columns)."""


def price(values: Array, model: Literal["mixed", "outlined"], like: Prices | None = None) -> Prices:
    """Return the prices of whole numbers around zero, of any shape: the first dimension gives rows, the others columns.

    The outlined model's prices also stand for the blended model's, which spends a few percent less. With ``like``,
    prices of nearly the same values, the mixed model does not search again which way to walk.
    """
    matrix = values.reshape(outlined.sides(values.shape)).astype(np.int64)
    match model:
        case "mixed":
            return _mixed(matrix, like.way if isinstance(like, _Mixed) else None)
        case "outlined":
            return _outlined(matrix)
        case _:
            assert_never(model)


@dataclass(frozen=True)
class _Mixed(Prices):
    """Zero and sign by the walk; magnitudes by one table for each side."""

    magnitudes: tuple[Array, Array]
    way: tuple[bool, int]
    """Whether a step of the walk is a column, and its lag."""

    def bits(self, values: Array) -> Array:
        far = [table[np.minimum(np.abs(values), table.size - 1)] for table in self.magnitudes]
        return np.where(values == 0, self.zero, np.where(values < 0, self.below + far[0], self.above + far[1]))


def _mixed(matrix: Array, way: tuple[bool, int] | None) -> _Mixed:
    pivot = max(-int(matrix.min()), 0)
    alphabet = pivot + max(int(matrix.max()), 0) + 1
    if way is None:
        found = mixed.search(matrix + pivot, pivot, alphabet)
        way = found.across, found.lag
    across, lag = way
    walked = matrix.T if across else matrix
    chance = np.zeros((2, *walked.shape), np.int64)
    chance[1] = round(float((matrix > 0).mean() / max((matrix != 0).mean(), 1e-9)) * 65536)  # of a zero's sign

    def code(chances: Array, step: int, lanes: slice | Array, *, sign: bool) -> Array:
        chance[int(sign), step, lanes] = chances
        value = walked[step, lanes]
        return np.asarray(value > 0 if sign else value != 0).astype(np.int64)

    mixed.walk(walked.shape, lag, pivot, alphabet).run(code)
    if not 0 < pivot < alphabet - 1:
        chance[1] = 0 if pivot else 65536
    some, up = (np.clip(part.T if across else part, 1, 65535) / 65536 for part in chance)
    zero, below, above = (-np.log2(share).astype(np.float32) for share in (1 - some, some * (1 - up), some * up))
    sides = (-matrix[matrix < 0], matrix[matrix > 0])
    return _Mixed(zero, below, above, (_magnitudes(sides[0]), _magnitudes(sides[1])), way)


def _magnitudes(side: Array) -> Array:
    """Return the mean bits of each magnitude (from 0, which never is) under the adaptive model."""
    top = int(side.max(initial=1))
    table = np.full(top + 2, NEVER, np.float32)
    total, count = np.zeros(top), np.zeros(top)
    for part in adaptive.parts(side - 1, top, adaptive.choose(side - 1, top)[0]):
        held = np.bincount(part[0], minlength=top) + 1e-6
        total += held * (np.log2(part[1].sum()) - np.log2(part[1]))
        count += held
    table[1:-1] = total / np.maximum(count, 1e-9) if side.size else NEVER
    return table


@dataclass(frozen=True)
class _Outlined(Prices):
    """By the class of an element and the distance to its anchor."""

    numbers: Array
    anchor: Array
    side: Array
    table: Array

    def bits(self, values: Array) -> Array:
        reach = self.table.shape[1] // 2
        distance = (values - self.anchor) * self.side
        known = self.table[self.numbers, np.clip(distance, -reach, reach) + reach]
        return np.where(np.abs(distance) <= reach, known, NEVER)


def _outlined(matrix: Array) -> _Outlined:
    pivot = max(-int(matrix.min()), 0)
    trial = outlined.search(matrix.astype(np.int32), pivot, pivot + max(int(matrix.max()), 0) + 1)
    table = _table(trial, matrix)
    whole = trial.plan.block(slice(None))
    numbers = whole.numbers.reshape(matrix.shape)
    shares = np.cumsum(np.pad(2.0**-table, ((0, 0), (1, 0))), axis=1)
    reach = table.shape[1] // 2
    at = np.clip(reach - whole.anchor * whole.side, -1, 2 * reach + 1)  # the symbol of zero
    under = shares[numbers, np.maximum(at, 0)], 1 - shares[numbers, np.minimum(at + 1, 2 * reach + 1)]
    below = np.where(whole.side > 0, under[0], under[1])
    above = np.where(whole.side > 0, under[1], under[0])
    zero = 1 - below - above
    bits = [-np.log2(np.clip(part, 2.0**-NEVER, 1)).astype(np.float32) for part in (zero, below, above)]
    return _Outlined(bits[0], bits[1], bits[2], numbers, whole.anchor, whole.side, table)


def _table(trial: outlined.Trial, matrix: Array) -> Array:
    """Return the mean bits of each distance in each class, over the blocks in which the class occurs."""
    width = 2 * trial.reach + 1
    total: dict[int, Array] = {}
    count: dict[int, Array] = {}
    tables = Tables(trial.reach, trial.kind, trial.levels)
    for some in blocks(*matrix.shape):
        block = trial.plan.block(some)
        symbols = block.distances(matrix[some]) + trial.reach
        for number, inside in block.parted(symbols):
            held = np.bincount(inside, minlength=width) + 1e-6
            frequencies = tables.frequencies(number)
            spent = held * (np.log2(frequencies.sum()) - np.log2(frequencies))
            total[number] = total.get(number, 0) + spent
            count[number] = count.get(number, 0) + held
            tables.see(number, inside)
    bits = np.full((max(total) + 1, width), NEVER, np.float32)
    for number, spent in total.items():
        bits[number] = spent / count[number]
    return bits
