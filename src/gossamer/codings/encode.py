"""Encoding: the smallest exact tree found for an array."""

import numpy as np

from gossamer import coders
from gossamer.codings.bits import bit_view, pack, same_bits
from gossamer.codings.decode import decode
from gossamer.codings.nodes import (
    DTYPES,
    Array,
    Bitmap,
    Codebook,
    Coding,
    Dense,
    Entropy,
    Gaps,
    Packed,
    Sparse,
    dtype,
    nbytes,
)
from gossamer.errors import CodingError


def encode(hint: Coding | Array) -> Coding:
    """Return the smallest exact tree found for the array that ``hint`` stands for.

    Raises:
        CodingError: the hint's parts do not fit together, or its dtype is unknown.
    """
    tree = Dense(hint) if isinstance(hint, np.ndarray | np.generic) else hint
    wanted = decode(tree)
    candidates: list[Coding] = [Dense(wanted, dtype(tree)), _arrange(tree)]
    if dtype(tree) == "bool" or wanted.dtype.kind in "iu":
        candidates.append(_whole(wanted, dtype(tree)))
    if wanted.size:
        candidates.append(_shared(wanted, dtype(tree)))
        candidates.append(_sparse(wanted, dtype(tree)))
    best = min(candidates, key=nbytes)
    if not same_bits(decode(best), wanted):
        raise CodingError("internal: the encoded tree does not decode to its array")
    return best


def _arrange(node: Coding) -> Coding:
    """Return ``node`` with each slot written in its smallest form."""
    match node:
        case Codebook():
            return Codebook(_slot(node.codes), _slot(node.centers))
        case Sparse():
            return Sparse(_support(decode(node.support)), _arrange(node.values))
        case _:
            return node


def _slot(node: Coding) -> Coding:
    array = decode(node)
    return _whole(array, dtype(node)) if array.dtype.kind in "iub" else node


def _whole(array: Array, name: str) -> Coding:
    if array.size == 0 or DTYPES[name].kind not in "iub":
        return Dense(array, name)
    low, high = int(array.min()), int(array.max())
    span = high - low
    candidates: list[Coding] = [Dense(array, name)]
    if span < 1 << 32:
        fields = (
            (array.astype(np.int64) - low).astype(np.uint32)
            if array.dtype.itemsize < 8
            else (array - np.asarray(low, array.dtype))
        )
        bits = span.bit_length()
        candidates.append(Packed(pack(fields.reshape(-1), bits), bits, low, array.shape, name))
        if span < coders.MAX_ALPHABET and array.size > 16:
            for model in ("static", "adaptive"):
                data = coders.encode(fields.astype(np.int32), span + 1, model=model)
                stored = np.frombuffer(data, np.uint8)
                candidates.append(Entropy(stored, array.shape, name, low, span + 1, model))
    return min(candidates, key=nbytes)


def _support(support: Array) -> Coding:
    bits = np.packbits(support.reshape(-1), bitorder="little")
    gaps = np.diff(np.flatnonzero(support.reshape(-1)), prepend=-1) - 1
    candidates = [Bitmap(_whole(bits, "uint8"), support.shape), _whole(support, "bool")]
    candidates.append(Gaps(_whole(gaps.astype(np.uint32), "uint32"), support.shape))
    return min(candidates, key=nbytes)


def _shared(array: Array, name: str) -> Coding:
    centers, codes = np.unique(bit_view(array), return_inverse=True)
    if centers.size > coders.MAX_ALPHABET:
        return Dense(array, name)
    stored = _whole(codes.reshape(array.shape).astype(np.uint32), "uint32")
    return Codebook(stored, Dense(centers.view(array.dtype), name))


def _sparse(array: Array, name: str) -> Coding:
    support = bit_view(array) != 0
    values = array[support]
    inner = _shared(values, name) if values.size else Dense(values, name)
    return Sparse(_support(support), min([Dense(values, name), inner], key=nbytes))
