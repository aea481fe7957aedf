"""The smallest form of an array of whole numbers, and of a boolean one."""

from functools import partial
from typing import Literal

import numpy as np

from gossamer import coders
from gossamer.codings.bits import bit_view, pack
from gossamer.codings.nodes import Array, Bitmap, Coding, Entropy, Gaps, ModelName, Packed, Planes
from gossamer.codings.option import RECORD, Option, best, dense
from gossamer.errors import CodingError

Effort = Literal["fast", "best"]
MIXED_LARGEST = 1 << 19  # elements: beyond it the mixed and blended models, seconds per million, are not worth the wait
_OUTLINED_LARGEST = 1 << 24  # elements: beyond it the writer would take too much memory beside the array
_OUTLINED_ALPHABET = 1 << 10
_SMALLEST = 256  # elements of a matrix worth modelling as one
_MIXED_SHARE = 0.4  # of the most frequent element: without one the model has nothing to predict
_MANY = 1 << 20  # elements from which a support is written only in forms that decode fast


def whole(array: Array, name: str, effort: Effort, *, numbers: bool = True) -> Option:
    """Return the smallest way found to write whole numbers or booleans of dtype ``name``.

    Args:
        array: any shape.
        name: its dtype.
        effort: how long to look.
        numbers: False where the elements are bit patterns, of which no mean can be said.
    """
    options = [dense(array, name)]
    if array.size:
        low, high = int(array.min()), int(array.max())
        if high - low < 1 << 32 and high < 1 << 63:
            options.extend(_ranged(array, name, low, high - low, effort, numbers=numbers))
        if array.dtype.itemsize > 1 and high - low >= 1 << 8:
            options.append(planes(array, name, effort))
    return best(options)


def support(array: Array, effort: Effort) -> Option:
    """Return the smallest way found to write a boolean array; of large ones the forms that decode fast."""
    flat = np.packbits(array.reshape(-1), bitorder="little")
    gaps = _gaps(array)
    inner = whole(gaps, gaps.dtype.name, effort)
    options = [Option(inner.bytes + RECORD, lambda: Gaps(inner.build(), array.shape))]
    if array.size <= _MANY or flat.size <= inner.bytes:
        bits = whole(flat, "uint8", effort)
        options.append(Option(bits.bytes + RECORD, lambda: Bitmap(bits.build(), array.shape)))
    if array.size <= _MANY:
        options.append(whole(array, "bool", effort))
    return best(options)


def _gaps(array: Array) -> Array:
    """Return how many zeros stand before each one, in the smaller of two dtypes that holds them."""
    places = np.flatnonzero(array)
    gaps = np.empty(places.size, np.uint32)
    gaps[:1] = places[:1]
    np.subtract(places[1:], places[:-1], out=gaps[1:], casting="unsafe")  # one array of 4 bytes, not three of 8
    gaps[1:] -= 1
    return gaps.astype(np.uint16) if gaps.max(initial=0) < 1 << 16 else gaps


def planes(array: Array, name: str, effort: Effort) -> Option:
    """Return the way to write ``array`` byte by byte, each plane in its smallest form."""
    width = array.dtype.itemsize
    columns = bit_view(array).reshape(-1, 1).view(np.uint8)
    parts = [
        whole(np.ascontiguousarray(columns[:, k]).reshape(array.shape), "uint8", effort, numbers=False)
        for k in range(width)
    ]
    total = sum(part.bytes for part in parts) + RECORD
    return Option(total, lambda: Planes(tuple(part.build() for part in parts), name))


def modelled(array: Array, name: str, *, numbers: bool = True) -> list[Option]:
    """Return the ways to write ``array`` as a matrix whose elements tell of each other, where that is meant."""
    if array.size < _SMALLEST or array.ndim < 2 or array.size > _OUTLINED_LARGEST:
        return []
    low, symbols, alphabet = _symbols(array)
    if not 1 < alphabet <= coders.MAX_ALPHABET:
        return []
    few = array.size <= MIXED_LARGEST
    peaked = few and int(np.bincount(symbols.reshape(-1)).max()) >= _MIXED_SHARE * symbols.size
    options = [_modelled(symbols, name, low, alphabet, "mixed")] if peaked else []
    if numbers and 2 < alphabet <= _OUTLINED_ALPHABET:
        outlined = _modelled(symbols, name, low, alphabet, "outlined")
        options.append(outlined)
        if few and (peaked or (outlined is not None and outlined.bytes < coders.estimate(symbols, alphabet, "static"))):
            options.append(_modelled(symbols, name, low, alphabet, "blended"))
    return [option for option in options if option is not None]


def _modelled(symbols: Array, name: str, low: int, alphabet: int, model: ModelName) -> Option | None:
    """Return one model's way, or None where it is not meant for such an array."""
    try:
        data = np.frombuffer(coders.encode(symbols, alphabet, model=model), np.uint8)
    except CodingError:
        return None
    if data.size < coders.least_bytes(symbols.shape, alphabet, model):
        return None
    return Option(data.size + 2 * RECORD, lambda: Entropy(data, symbols.shape, name, low, alphabet, model))


def _ranged(array: Array, name: str, low: int, span: int, effort: Effort, *, numbers: bool) -> list[Option]:
    """Return the options for elements within ``span`` of ``low``."""
    width = span.bit_length()
    options = [Option((array.size * width + 7) // 8 + RECORD + 2, partial(_packed, array, name, low, width))]
    if 0 < span < coders.MAX_ALPHABET and array.size > 16:
        _, symbols, alphabet = _symbols(array)
        for model, size in coders.estimates(symbols, alphabet).items():
            options.append(Option(size + 2 * RECORD, partial(_coded, symbols, name, low, alphabet, model)))
        if effort == "best":
            options.extend(modelled(array, name, numbers=numbers))
    return options


def _offset(array: Array, low: int) -> Array:
    """Return ``array - low``, flat and unsigned (the subtraction wraps, so that int8 -128 to 127 fits)."""
    flat = array.reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype == np.bool_ else flat
    return bit_view(flat - np.asarray(low).astype(flat.dtype))


def _symbols(array: Array) -> tuple[int, Array, int]:
    """Return the smallest element, the elements counted from it as ``int32``, and the size of the alphabet."""
    low, high = int(array.min()), int(array.max())
    return low, _offset(array, low).astype(np.int32).reshape(array.shape), high - low + 1


def _packed(array: Array, name: str, low: int, width: int) -> Coding:
    return Packed(pack(_offset(array, low), width), width, low, array.shape, name)


def _coded(symbols: Array, name: str, low: int, alphabet: int, model: Literal["static", "adaptive"]) -> Coding:
    data = coders.encode(symbols, alphabet, model=model)
    return Entropy(np.frombuffer(data, np.uint8), symbols.shape, name, low, alphabet, model)
