"""Static model: frequencies are counted once and sent ahead of the stream in a compact table."""

from math import prod

import numpy as np

from gossamer.coders import stream
from gossamer.coders.stream import Array, CoderName
from gossamer.coders.table import counts_of, frequencies_of, levels_of, read_table, write_table


def encode(symbols: Array, alphabet: int, coder: CoderName) -> bytes:
    """Return table and stream."""
    flat = symbols.reshape(-1)
    levels = levels_of(counts_of(flat, alphabet))
    return write_table(levels) + stream.write([stream.Symbols(flat, frequencies_of(levels))], coder)


def bits(counts: Array) -> float:
    """Return the bits of table and stream for symbols that occur ``counts`` times, with a perfect coder."""
    levels = levels_of(counts)
    frequencies = np.maximum(frequencies_of(levels), 1)
    return float(counts @ (np.log2(frequencies.sum()) - np.log2(frequencies))) + 8 * len(write_table(levels))


def decode(data: bytes, shape: tuple[int, ...], alphabet: int, coder: CoderName) -> Array:
    """Return the flat symbols.

    Raises:
        CodingError: the table or the stream is malformed.
    """
    levels, taken = read_table(data, alphabet)
    return stream.read(data[taken:], coder).symbols(frequencies_of(levels), prod(shape))
