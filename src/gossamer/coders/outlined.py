"""Outlined model: a matrix of codes, each told from the level of its row and column and a mean of low rank.

The outline (`outline`) gives every element a mean and a deviation before anything is decoded. Elements of like mean and
deviation form a class with a table of its own, so decoding is vectorised, at any size. There are two ways:

- around the mean, for codes that are close to normal: what is coded is the distance to the rounded mean, its class is
  the deviation and the fraction of the mean, its table a bell curve (`curves`) plus what the class held before;
- around zero, for sparse codes: what is coded is the code, turned to the side of its mean, its class is the deviation
  and how many deviations the mean is, its table one that is sent, for all classes, plus what the class held before.
"""

from collections.abc import Iterator
from math import prod
from struct import Struct
from typing import NamedTuple

import numpy as np

from gossamer.coders import outline, stream
from gossamer.coders.classes import AROUND_ZERO, GAIN, KINDS, Block, Plan, Tables, blocks
from gossamer.coders.fit import fits
from gossamer.coders.stream import Array, CoderName
from gossamer.coders.table import counts_of, levels_of, read_table, write_table
from gossamer.errors import CodingError

FARTHEST = 511  # greatest distance coded
_PREFIX = Struct("<HHB")  # pivot; greatest distance; kind
_FEWEST = 256  # bytes: what the tables of the classes are worth
_SAMPLE = 1 << 20  # elements that the kind is chosen by


def sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of the matrix: the first dimension, and all others together."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def least_bytes(shape: tuple[int, ...]) -> int:
    """Return how many bytes an array should take for its decoding time and memory to be fair."""
    return _FEWEST + prod(shape) // 512


def median(symbols: Array, alphabet: int) -> int:
    """Return the median of ``symbols``, rounded down."""
    ends = np.cumsum(counts_of(symbols, alphabet))
    middle = np.searchsorted(ends, [(symbols.size - 1) // 2, symbols.size // 2], side="right")
    return int(middle.sum()) // 2


def encode(symbols: Array, alphabet: int, coder: CoderName) -> bytes:
    """Return prefix and stream of the shortest way found.

    Raises:
        CodingError: the array is empty, or an element is too far from its mean.
    """
    if not symbols.size:
        raise CodingError("the outlined model is for arrays that have elements")
    pivot = median(symbols, alphabet)
    values = np.subtract(symbols.reshape(sides(symbols.shape)), pivot, dtype=np.int32, casting="same_kind")
    best = search(values, pivot, alphabet)
    if best.reach > FARTHEST:
        raise CodingError(f"the outlined model is for elements within {FARTHEST} of their mean, got {best.reach}")
    head, parts = outline.write(best.plan.known)
    prefix = _PREFIX.pack(pivot, best.reach, best.kind) + best.sent()
    return prefix + head + stream.write([*parts, *_parts(values, best)], coder)


def decode(data: bytes, shape: tuple[int, ...], alphabet: int, coder: CoderName) -> Array:
    """Return the flat symbols.

    Raises:
        CodingError: the prefix or the stream is malformed, or a symbol is outside the alphabet.
    """
    if len(data) < _PREFIX.size or not prod(shape):
        raise CodingError("an outlined stream is cut off in its prefix")
    pivot, reach, kind = _PREFIX.unpack_from(data)
    if pivot >= alphabet or reach > FARTHEST or kind >= KINDS:
        raise CodingError(f"an outlined stream has pivot {pivot} of {alphabet}, distances to {reach}, kind {kind}")
    data = data[_PREFIX.size :]
    around_zero = kind % 4 == AROUND_ZERO
    sent = np.zeros(0, np.int64)
    if around_zero:
        sent, taken = read_table(data, 2 * reach + 1)
        data = data[taken:]
    start = outline.length(data)
    reader = stream.read(data[start:], coder)
    known = outline.read(data[:start], reader, sides(shape))
    tables = Tables(reach, kind, sent)
    plan = Plan(known, pivot, alphabet, around_zero=around_zero)
    symbols = np.empty(sides(shape), np.int32)
    for some in blocks(*symbols.shape):
        block = plan.block(some)
        distances = block.joined([_taken(reader, tables, number, count) for number, count in block.classes])
        distances -= reach
        np.add(block.values(distances), pivot, out=symbols[some])
    if int(symbols.min()) < 0 or int(symbols.max()) >= alphabet:
        raise CodingError(f"an outlined stream holds a symbol outside 0 to {alphabet - 1}")
    return symbols.reshape(-1)


def _taken(reader: stream.Reader, tables: Tables, number: int, count: int) -> Array:
    """Return the next symbols, all of one class, and count them."""
    symbols = reader.symbols(tables.frequencies(number), count)
    tables.see(number, symbols)
    return symbols


class Trial(NamedTuple):
    """One way to code values: anchors and classes, greatest distance, best kind, table to send, and about the bits."""

    plan: Plan
    reach: int
    kind: int
    levels: Array
    bits: float

    def sent(self) -> bytes:
        """Return the bytes of the table that is sent."""
        return write_table(self.levels) if self.plan.around_zero else b""


def search(values: Array, pivot: int, alphabet: int) -> Trial:
    """Return the way with the fewest bits: with a mean of low rank or without, around it or around zero."""
    trials = []
    for known in fits(values):
        head, parts = outline.write(known)
        side = 8 * (len(head) + len(stream.write(parts, "ans")))
        trials += [_trial(Plan(known, pivot, alphabet, around_zero=way), values, side) for way in (False, True)]
    return min(trials, key=lambda trial: trial.bits)


def _trial(plan: Plan, values: Array, side: int) -> Trial:
    """Return the best kind for a plan whose outline takes ``side`` bits."""
    reach = plan.reach(values)
    levels = np.zeros(0, np.int64)
    if reach > FARTHEST:
        return Trial(plan, reach, 0, levels, float("inf"))
    few = values[: max(_SAMPLE // values.shape[1], 1)]
    held = [_held(plan.block(some), few, reach) for some in blocks(*few.shape)]
    if plan.around_zero:
        levels = levels_of(np.sum([counts for block in held for _, counts in block], axis=0))
    kinds = [kind for kind in range(KINDS) if (kind % 4 == AROUND_ZERO) == plan.around_zero]
    bits = _bits(held, [Tables(reach, kind, levels) for kind in kinds])
    least = int(bits.argmin())
    trial = Trial(plan, reach, kinds[least], levels, 0.0)
    return trial._replace(bits=float(bits[least]) * values.size / few.size + side + 8 * len(trial.sent()))


def _held(block: Block, values: Array, reach: int) -> list[tuple[int, Array]]:
    """Return how often each distance occurs in each class of a block."""
    symbols = block.distances(values[block.some]) + reach
    return [(number, np.bincount(inside, minlength=2 * reach + 1)) for number, inside in block.parted(symbols)]


def _bits(held: list[list[tuple[int, Array]]], ways: list[Tables]) -> Array:
    """Return the bits that a perfect coder spends in each of some ways."""
    total = np.zeros(len(ways))
    known: dict[int, Array] = {}  # frequencies of a class, all ways at once
    for number, counts in (item for block in held for item in block):
        if number not in known:
            known[number] = np.stack([tables.frequencies(number) for tables in ways])
        frequencies = known[number]
        total += counts.sum() * np.log2(frequencies.sum(axis=1)) - np.log2(frequencies) @ counts
        known[number] = frequencies + counts * GAIN
    return total


def _parts(values: Array, trial: Trial) -> Iterator[stream.Part]:
    """Yield what is coded, class by class."""
    tables = Tables(trial.reach, trial.kind, trial.levels)
    for some in blocks(*values.shape):
        block = trial.plan.block(some)
        symbols = block.distances(values[some]) + trial.reach
        for number, inside in block.parted(symbols):
            yield stream.Symbols(inside, tables.frequencies(number))
            tables.see(number, inside)
