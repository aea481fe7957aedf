"""Block-adaptive model: the frequencies of a block are learned from the blocks before it; nothing is sent.

With a gain of 2 the estimate is the one of Krichevsky and Trofimov (1981). A block is an eighth of what was seen so far
(within 64 and 16,384 symbols, more for large alphabets), so one model is built per block and decoding is vectorised.
When the total passes a limit all counts are halved: old blocks fade, and drifting statistics are followed.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from gossamer.coders import stream
from gossamer.coders.stream import Array, CoderName
from gossamer.errors import CodingError

_SMALLEST, _LARGEST = 64, 1 << 14
_GAINS = (1, 2, 4, 16)  # weight of one occurrence against one of the prior's, which gives every symbol one
_LIMITS = (1 << 10, 1 << 13, 1 << 16, 1 << 40)
_LONG = 1 << 17  # symbols from which the gain no longer matters, only whether to fade
_AT_ONCE = 1 << 14  # counts priced together: they stay in the cache
SETTINGS = len(_GAINS) * len(_LIMITS)


def encode(symbols: Array, alphabet: int, coder: CoderName) -> bytes:
    """Return one byte (how fast to learn and to forget) and the stream, for the setting with the shortest code."""
    flat = symbols.reshape(-1)
    setting, _ = choose(flat, alphabet)
    return bytes([setting]) + stream.write(parts(flat, alphabet, setting), coder)


def decode(data: bytes, shape: tuple[int, ...], alphabet: int, coder: CoderName) -> Array:
    """Return the flat symbols.

    Raises:
        CodingError: the setting or the stream is malformed.
    """
    if not data or data[0] >= SETTINGS:
        raise CodingError(f"an adaptive stream starts with its setting, 0 to {SETTINGS - 1}")
    return take(stream.read(data[1:], coder), prod(shape), alphabet, data[0])


def choose(flat: Array, alphabet: int) -> tuple[int, float]:
    """Return the setting with the shortest code for ``flat``, and the bits a perfect coder spends under it."""
    if alphabet == 1 or flat.size == 0:
        return 0, 0.0
    return cheapest(counted(flat, alphabet))


def counted(flat: Array, alphabet: int) -> Array:
    """Return how often each symbol occurs in each block."""
    spans = list(_blocks(flat.size, alphabet))
    counts = np.empty((len(spans), alphabet), np.int64)
    for row, (start, stop) in zip(counts, spans, strict=True):
        row[:] = np.bincount(flat[start:stop], minlength=alphabet)
    return counts


def cheapest(counts: Array) -> tuple[int, float]:
    """Return the setting with the shortest code for blocks of ``counts``, and its bits."""
    tried = range(SETTINGS) if int(counts.sum()) < _LONG else range(1, SETTINGS, len(_GAINS))
    costs = {setting: _cost(counts, setting) for setting in tried}
    setting = min(costs, key=costs.__getitem__)
    return setting, costs[setting]


def parts(flat: Array, alphabet: int, setting: int) -> list[stream.Part]:
    """Return the blocks of ``flat`` and the frequencies each is coded with."""
    learned = _Learned(alphabet, setting)
    blocks: list[stream.Part] = []
    for start, stop in _blocks(flat.size, alphabet):
        block = flat[start:stop]
        blocks.append(stream.Symbols(block, learned.frequencies()))
        learned.see(np.bincount(block, minlength=alphabet))
    return blocks


def take(reader: stream.Reader, count: int, alphabet: int, setting: int) -> Array:
    """Return ``count`` symbols off ``reader``, the inverse of `parts`."""
    learned = _Learned(alphabet, setting)
    flat = np.empty(count, np.int32)
    for start, stop in _blocks(count, alphabet):
        block = reader.symbols(learned.frequencies(), stop - start)
        flat[start:stop] = block
        learned.see(np.bincount(block, minlength=alphabet))
    return flat


class _Learned:
    """Counts of what was seen, fading."""

    def __init__(self, alphabet: int, setting: int) -> None:
        self._counts = np.zeros(alphabet, np.int64)
        self._seen = 0
        self._gain = _GAINS[setting % len(_GAINS)]
        self._limit = _LIMITS[setting // len(_GAINS)]

    def frequencies(self) -> Array:
        return self._counts * self._gain + 1

    def see(self, counts: Array) -> None:
        self._counts += counts
        self._seen += int(counts.sum())
        while self._seen > self._limit:
            self._counts >>= 1
            self._seen = int(self._counts.sum())


def _blocks(count: int, alphabet: int) -> Iterator[tuple[int, int]]:
    smallest, largest = max(_SMALLEST, alphabet // 8), max(_LARGEST, 4 * alphabet)
    start = 0
    while start < count:
        stop = min(start + min(max(start // 8, smallest), largest), count)
        yield start, stop
        start = stop


def _cost(counts: Array, setting: int) -> float:
    """Return the bits that a perfect coder would spend under ``setting``."""
    learned = _Learned(counts.shape[1], setting)
    bits = 0.0
    together = max(_AT_ONCE // counts.shape[1], 1)
    for start in range(0, len(counts), together):
        some = counts[start : start + together]
        frequencies = np.empty(some.shape, np.float64)
        for row, count in zip(frequencies, some, strict=True):
            row[:] = learned.frequencies()
            learned.see(count)
        totals = frequencies.sum(axis=1)
        bits += float(some.sum(axis=1) @ np.log2(totals)) - float((some * np.log2(frequencies)).sum())
    return bits
