"""The smallest form of an array of values: dense, byte planes, shared values, or zeros left out."""

import numpy as np

from gossamer.codings.bits import bit_view
from gossamer.codings.nodes import INTEGERS, Affine, Array, Codebook, Dense, Sparse
from gossamer.codings.option import RECORD, Option, best, dense
from gossamer.codings.whole import MIXED_LARGEST, Effort, modelled, planes, support, whole

_SAMPLE = 1 << 14
_FULL = 0.9  # share of a range of whole numbers that occurs, from which it needs no codebook
_NOTHING = 1e-3  # share of the bytes that is not worth looking for
_ZEROS = 1 / 64  # share of zeros from which a support is worth trying


def values(array: Array, name: str, effort: Effort) -> Option:
    """Return the smallest way found to write an array of any dtype."""
    if name == "bool":
        return support(array, effort)
    bits = bit_view(array)
    zeros = bits.size - int(np.count_nonzero(bits))
    repeats = _may_repeat(bits)
    options: list[Option] = []
    full = True  # whether a codebook would leave out next to nothing
    few = False  # whether centers are nothing beside their codes
    if repeats:
        centers = np.unique(bits)
        full = name in INTEGERS and centers.size > _FULL * (int(array.max()) - int(array.min()) + 1)
        if centers.size <= min(1 << 16, max(bits.size // 2, 1)) and not full:
            options.append(shared(_among(bits, centers), centers.view(array.dtype), name, effort))
            few = centers.nbytes <= _NOTHING * options[0].bytes
    if name in INTEGERS:
        options.append(whole(array, name, effort if full else "fast"))
    else:
        # The entropies of the bytes add up to at least that of the value, so planes do not beat codes.
        options.append(dense(array, name) if few else floats(array, name))
    if zeros > _ZEROS * bits.size:
        # Where values repeat, their codebook holds the zero and the mixed model has seen the support there.
        where = bits != 0
        options.append(sparse(where, values(array[where], name, effort), "fast" if repeats else effort))
    return best(options)


def shared(codes: Array, centers: Array, name: str, effort: Effort) -> Option:
    """Return the smallest way found to write ``centers[codes]``."""
    renamed, kept = tidy(codes, centers, name)
    inner, outer = whole(renamed, renamed.dtype.name, effort), floats(kept, name)
    return Option(inner.bytes + outer.bytes + RECORD, lambda: Codebook(inner.build(), outer.build()))


def floats(array: Array, name: str) -> Option:
    """Return the smallest of dense, byte planes, and, for a vector, multiples of a power of two."""
    options = [dense(array, name)]
    if array.dtype.itemsize > 1 and array.size > 8:
        options.append(planes(array, name, "fast"))
    found = levels(array) if name == "float32" and array.ndim < 2 and 8 < array.size <= _SAMPLE else None
    if found is not None:
        codes, step = found
        inner, zero = whole(codes, "int16", "fast"), np.zeros((), np.int32)
        options.append(
            Option(inner.bytes + 8 + 3 * RECORD, lambda: Affine(inner.build(), Dense(step), Dense(zero), None, name))
        )
    return best(options)


def levels(array: Array) -> tuple[Array, Array] | None:
    """Return int16 codes and a power of two that ``array``, float32, is exactly the product of, or None."""
    if not np.isfinite(array).all() or not array.any() or np.signbit(array[array == 0]).any():
        return None
    share, exponent = np.frexp(array[array != 0])
    digits = np.abs(share * 2.0**24).astype(np.int64)
    trailing = np.log2(digits & -digits).astype(np.int64)
    step = np.ldexp(np.float64(1), int((exponent - 24 + trailing).min()))
    codes = np.asarray(array / step)
    if np.abs(codes).max() >= 1 << 15 or step < np.finfo(np.float32).tiny:
        return None
    return codes.astype(np.int16), np.array(step, np.float32)


def sparse(where: Array, inside: Option, effort: Effort) -> Option:
    """Return the way to write zeros outside ``where`` and ``inside`` within."""
    positions = support(where, effort)
    return Option(positions.bytes + inside.bytes + RECORD, lambda: Sparse(positions.build(), inside.build()))


def shared_sparse(where: Array, codes: Array, centers: Array, name: str) -> Option | None:
    """Return support and shared values as one matrix of codes, zero among them, or None where that is not meant.

    Only models of a matrix gain by it: they predict signs from positions.
    """
    if where.size > MIXED_LARGEST or codes.size == 0:
        return None
    full = np.full(where.shape, centers.size, np.int64)
    full[where] = codes
    renamed, kept = tidy(full, np.concatenate([centers, np.zeros(1, centers.dtype)]), name)
    found = modelled(renamed, renamed.dtype.name)
    if not found:
        return None
    inner, outer = best(found), floats(kept, name)
    return Option(inner.bytes + outer.bytes + RECORD, lambda: Codebook(inner.build(), outer.build()))


def tidy(codes: Array, centers: Array, name: str) -> tuple[Array, Array]:
    """Return codes and centers with unused and double centers gone and the others in order.

    In order of value, neighbouring codes mean neighbouring values, which the mixed model lives on.
    """
    used = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=centers.size))
    distinct, place = np.unique(_ordered(centers[used], name), return_inverse=True)
    kept = np.zeros(distinct.size, centers.dtype)
    kept[place] = centers[used]
    narrow = np.uint8 if distinct.size <= 1 << 8 else np.uint16 if distinct.size <= 1 << 16 else np.uint32
    table: Array = np.zeros(centers.size, narrow)
    table[used] = place
    return table[codes], kept


def in_order(words: Array, codewords: Array) -> tuple[Array, Array]:
    """Return words and codewords with unused and double codewords gone and the others in the order of their sums.

    Args:
        words: an index into ``codewords`` each, of any shape.
        codewords: (K, width); of bit patterns (bfloat16) the order is that of their bits.
    """
    used = np.flatnonzero(np.bincount(words.reshape(-1), minlength=len(codewords)))
    bits, place = np.unique(bit_view(codewords[used]), axis=0, return_inverse=True)
    kept = bits.view(codewords.dtype)
    if kept.dtype.kind == "f":
        with np.errstate(all="ignore"):
            order = np.argsort(kept.sum(1, dtype=np.float64), kind="stable")
        kept, place = kept[order], np.argsort(order)[place]
    table: Array = np.zeros(len(codewords), np.min_scalar_type(max(len(kept) - 1, 0)))
    table[used] = place.reshape(-1)
    return table[words], kept


def _among(bits: Array, centers: Array) -> Array:
    """Return the place of each element among ``centers``, which are sorted and hold them all."""
    if bits.itemsize > 2:
        return np.searchsorted(centers, bits)
    table: Array = np.zeros(1 << 8 * bits.itemsize, np.uint16)
    table[centers] = np.arange(centers.size)
    return table[bits]


def _may_repeat(bits: Array) -> bool:
    """Tell from a sample whether values repeat often enough for a codebook to be worth counting them all."""
    if bits.size <= _SAMPLE:
        return bits.size > 1
    sample = bits.reshape(-1)[:: bits.size // _SAMPLE]
    return np.unique(sample).size < 0.7 * sample.size


def _ordered(array: Array, name: str) -> Array:
    """Return unsigned keys in the order of the values (of floats: by sign and magnitude; NaNs at the ends)."""
    bits = bit_view(array)
    top = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    if name.startswith("uint"):
        return bits
    if name in INTEGERS:
        return np.asarray(bits ^ top)
    return np.asarray(np.where(bits & top, ~bits, bits | top))
