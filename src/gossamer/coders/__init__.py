"""Integers to bytes and back: an entropy coder and a model of the symbols' frequencies.

``static`` counts once and sends the counts; ``adaptive`` learns block by block and sends nothing; ``mixed`` predicts
each element of a small matrix from its surroundings; ``outlined`` sends the scale of each row and column and a mean of
low rank ahead; ``blended`` does both, for all of an element.
"""

from typing import Literal, assert_never

from gossamer.coders import adaptive, blended, mixed, outlined, static
from gossamer.coders.stream import Array, CoderName
from gossamer.coders.table import counts_of
from gossamer.errors import CodingError

ModelName = Literal["static", "adaptive", "mixed", "outlined", "blended"]
CountedName = Literal["static", "adaptive"]
MAX_ALPHABET = 1 << 16

__all__ = ["MAX_ALPHABET", "CoderName", "ModelName", "decode", "encode", "estimate", "estimates", "least_bytes"]


def encode(symbols: Array, alphabet: int, *, model: ModelName = "static", coder: CoderName = "ans") -> bytes:
    """Return ``symbols`` (any shape; whole numbers from 0 to ``alphabet - 1``) as bytes, side information included.

    Raises:
        CodingError: the alphabet is outside 1 to `MAX_ALPHABET`, a symbol is outside the alphabet, or a model is
            asked for an array beyond its bounds.
    """
    _check(alphabet)
    if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < alphabet:
        raise CodingError(f"symbols must be 0 to {alphabet - 1}, got {symbols.min()} to {symbols.max()}")
    match model:
        case "static":
            return static.encode(symbols, alphabet, coder)
        case "adaptive":
            return adaptive.encode(symbols, alphabet, coder)
        case "mixed":
            return mixed.encode(symbols, alphabet, coder)
        case "outlined":
            return outlined.encode(symbols, alphabet, coder)
        case "blended":
            return blended.encode(symbols, alphabet, coder)
        case _:
            assert_never(model)


def decode(
    data: bytes, shape: tuple[int, ...], alphabet: int, *, model: ModelName = "static", coder: CoderName = "ans"
) -> Array:
    """Return the symbols of an array of ``shape`` from bytes made by `encode`, as flat ``int32``.

    Raises:
        CodingError: the bytes are not ones that `encode` writes.
    """
    _check(alphabet)
    match model:
        case "static":
            return static.decode(data, shape, alphabet, coder)
        case "adaptive":
            return adaptive.decode(data, shape, alphabet, coder)
        case "mixed":
            return mixed.decode(data, shape, alphabet, coder)
        case "outlined":
            return outlined.decode(data, shape, alphabet, coder)
        case "blended":
            return blended.decode(data, shape, alphabet, coder)
        case _:
            assert_never(model)


def least_bytes(shape: tuple[int, ...], alphabet: int, model: ModelName) -> int:
    """Return how many bytes an array should take for its decoding time to be fair, beyond what its elements are given.

    A file may not have many arrays that take a reader long for nothing.
    """
    match model:
        case "static" | "adaptive":
            return 0
        case "mixed":
            return mixed.least_bytes(shape)
        case "outlined":
            return outlined.least_bytes(shape)
        case "blended":
            return blended.least_bytes(shape, alphabet)
        case _:
            assert_never(model)


def estimate(symbols: Array, alphabet: int, model: CountedName) -> float:
    """Return about how many bytes `encode` will take, without coding."""
    if model == "static":
        return static.bits(counts_of(symbols, alphabet)) / 8 + 3
    return estimates(symbols, alphabet)[model]


def estimates(symbols: Array, alphabet: int) -> dict[CountedName, float]:
    """Return about how many bytes `encode` will take under each model that counts symbols, without coding."""
    counts = adaptive.counted(symbols.reshape(-1), alphabet)
    adapted = adaptive.cheapest(counts)[1] if symbols.size else 0.0
    return {"static": static.bits(counts.sum(axis=0)) / 8 + 3, "adaptive": adapted / 8 + 4}


def _check(alphabet: int) -> None:
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise CodingError(f"an alphabet has 1 to {MAX_ALPHABET} symbols, got {alphabet}")
