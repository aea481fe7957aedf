"""Bit streams: the one place that talks to ``constriction`` (Bamler 2022, arXiv 2201.01741).

Two coders behind one interface. ANS (Duda 2013, arXiv 1311.2540) is a stack: the encoder is fed the parts last to
first, the decoder pops them first to last, and reading on past its end yields symbols, never an error. The range coder
(Martin 1979) is a queue and may refuse bits that no encoder writes. Words are 32 bits, little-endian.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, assert_never

import constriction
import numpy as np
import numpy.typing as npt

from gossamer.errors import CodingError

Array = npt.NDArray[Any]
CoderName = Literal["ans", "range"]
_STACK, _QUEUE, _MODEL = constriction.stream.stack, constriction.stream.queue, constriction.stream.model
_BERNOULLI = _MODEL.Bernoulli(perfect=False)


class Symbols(NamedTuple):
    """Symbols (flat, from 0) that share the relative frequencies (whole numbers) they are coded with."""

    symbols: Array
    frequencies: Array


class Bits(NamedTuple):
    """Bits (flat, 0 or 1), each with its own chance of being 1, in 1/65536 and neither 0 nor 65536."""

    bits: Array
    chances: Array


Part = Symbols | Bits


class Reader:
    """Takes parts off a stream, in the order they were given to `write`."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def symbols(self, frequencies: Array, count: int) -> Array:
        """Return the next ``count`` symbols, coded with ``frequencies``, as ``int32``."""
        if frequencies.size == 1 or count == 0:
            return np.zeros(count, np.int32)
        if not frequencies.any():
            raise CodingError(f"{count} symbols are coded with a table in which none occurs")
        return self._take(_categorical(frequencies), count)

    def bits(self, chances: Array) -> Array:
        """Return one bit for each of ``chances``, as ``int64``."""
        return self._take(_BERNOULLI, chances / 65536.0).astype(np.int64)

    def _take(self, model: Any, argument: Any) -> Array:
        try:
            taken: Array = self._decoder.decode(model, argument)
        except AssertionError:
            raise CodingError("the coded bits are not ones that an encoder writes") from None
        return taken


def write(parts: Sequence[Part], coder: CoderName) -> bytes:
    """Return the stream of ``parts``, one after the other."""
    coded = [_arguments(part) for part in parts if len(part[0]) and len(part[1]) > isinstance(part, Symbols)]
    match coder:
        case "ans":
            encoder = _STACK.AnsCoder()
            for arguments in reversed(coded):
                encoder.encode_reverse(*arguments)
        case "range":
            encoder = _QUEUE.RangeEncoder()
            for arguments in coded:
                encoder.encode(*arguments)
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
            return Reader(_STACK.AnsCoder(words))
        case "range":
            return Reader(_QUEUE.RangeDecoder(words))
        case _:
            assert_never(coder)


def _arguments(part: Part) -> tuple[Any, ...]:
    match part:
        case Symbols():
            return part.symbols.astype(np.int32, copy=False), _categorical(part.frequencies)
        case Bits():
            return part.bits.astype(np.int32, copy=False), _BERNOULLI, part.chances / 65536.0
        case _:
            assert_never(part)


def _categorical(frequencies: Array) -> Any:
    """Return the model; ``perfect=False`` gives every symbol a share above zero, by exact float64 arithmetic."""
    return _MODEL.Categorical(frequencies.astype(np.float64), perfect=False)
