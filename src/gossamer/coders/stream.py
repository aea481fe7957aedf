"""Bit streams: the one place that talks to ``constriction`` (Bamler 2022, arXiv 2201.01741).

Two coders behind one interface. ANS (Duda 2013, arXiv 1311.2540) is a stack: the encoder is fed the parts last to
first, the decoder pops them first to last, and reading on past its end yields symbols, never an error. The range coder
(Martin 1979) is a queue and may refuse bits that no encoder writes. Words are 32 bits, little-endian.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, assert_never

import constriction
import numpy as np
import numpy.typing as npt

from gossamer.errors import CodingError

_STACK, _QUEUE, _MODEL = constriction.stream.stack, constriction.stream.queue, constriction.stream.model

Array = npt.NDArray[Any]
CoderName = Literal["ans", "range"]
Part = tuple[Array, Array]
"""Symbols (flat, from 0) and the relative frequencies (whole numbers) they are coded with."""


class Reader(Protocol):
    """Takes symbols off a stream, in the order they were given to `write`."""

    def read(self, frequencies: Array, count: int) -> Array:
        """Return the next ``count`` symbols, coded with ``frequencies``, as ``int32``."""


class _Reader:
    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def read(self, frequencies: Array, count: int) -> Array:
        if frequencies.size == 1 or count == 0:
            return np.zeros(count, np.int32)
        try:
            symbols: Array = self._decoder.decode(_categorical(frequencies), count)
        except AssertionError:
            raise CodingError("the coded bits are not ones that an encoder writes") from None
        return symbols


def write(parts: Sequence[Part], coder: CoderName) -> bytes:
    """Return the stream of ``parts``, one after the other."""
    coded = [(symbols, frequencies) for symbols, frequencies in parts if frequencies.size > 1 and symbols.size]
    match coder:
        case "ans":
            encoder = _STACK.AnsCoder()
            for symbols, frequencies in reversed(coded):
                encoder.encode_reverse(symbols.astype(np.int32), _categorical(frequencies))
        case "range":
            encoder = _QUEUE.RangeEncoder()
            for symbols, frequencies in coded:
                encoder.encode(symbols.astype(np.int32), _categorical(frequencies))
        case _:
            assert_never(coder)
    words: Array = encoder.get_compressed()
    return words.astype("<u4").tobytes()


def read(data: bytes, coder: CoderName) -> Reader:
    """Open the stream ``data`` for reading.

    Raises:
        CodingError: ``data`` is not a stream of this coder.
    """
    if len(data) % 4:
        raise CodingError(f"a coded stream is whole 32-bit words, got {len(data)} bytes")
    words = np.frombuffer(data, "<u4").astype(np.uint32)
    match coder:
        case "ans":
            if words.size and words[-1] == 0:
                raise CodingError("an ANS stream never ends in a zero word")
            return _Reader(_STACK.AnsCoder(words))
        case "range":
            return _Reader(_QUEUE.RangeDecoder(words))
        case _:
            assert_never(coder)


def _categorical(frequencies: Array) -> Any:
    """Return the model; ``perfect=False`` gives every symbol a share above zero, by exact float64 arithmetic."""
    return _MODEL.Categorical(frequencies.astype(np.float64), perfect=False)
