"""Encoding: the smallest exact tree found for an array.

Sizes are estimated from counts, so that only the chosen tree is built; then the tree proves itself: it must decode to
the array, bit for bit.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from gossamer.codings.bits import same_bits
from gossamer.codings.decode import view
from gossamer.codings.nodes import (
    INTEGERS,
    Affine,
    Array,
    Codebook,
    Coding,
    Dense,
    Hash,
    Paths,
    Reshape,
    Runs,
    Shift,
    Sparse,
    dtype,
    shape,
)
from gossamer.codings.option import RECORD, Option, best
from gossamer.codings.paths import least_bytes, trace
from gossamer.codings.rows import by_rows
from gossamer.codings.values import floats, in_order, shared, shared_sparse, sparse, values
from gossamer.codings.whole import Effort, support, whole
from gossamer.errors import CodingError

_SMALL = 1 << 20  # elements up to which a structure that the hint does not name is looked for as well


def encode(hint: Coding | Array, *, effort: Effort = "best", structured: bool = False) -> Coding:
    """Return the smallest exact tree found for the array that ``hint`` stands for.

    Args:
        hint: an array, or a tree that names its structure (shared values, a support, levels); how the hint's slots
            are stored does not matter.
        effort: ``fast`` leaves out the mixed model, which codes small matrices best but at about a second per
            million elements.
        structured: keep the hint's structure where it names one, even if another tree is smaller: levels stay levels,
            so that a target can compute with them.

    Raises:
        CodingError: the hint's parts do not fit together, or its dtype is unknown.
    """
    tree = Dense(hint) if isinstance(hint, np.ndarray | np.generic) else hint
    parts = tree if isinstance(tree, Sparse) and prod(shape(tree)) > _SMALL and _fits(tree) else None
    size = view(tree).size if parts is None else prod(shape(tree))
    keep = structured and isinstance(tree, Affine | Codebook | Sparse | Hash | Reshape) and size > 0
    found = best([_along(tree, effort)] if keep else _options(tree, size, effort)).build()
    if not (same_bits(view(found), view(tree)) if parts is None else _same_parts(found, parts)):
        raise CodingError("the tree chosen by encode does not decode to its array; please report this with the array")
    return found


def _fits(tree: Sparse) -> bool:
    return int(np.count_nonzero(view(tree.support))) == prod(shape(tree.values))


def _same_parts(found: Coding, wanted: Sparse) -> bool:
    """Return whether two trees decode to the same; where both are sparse, without the zeros of either."""
    if not isinstance(found, Sparse) or dtype(found) != dtype(wanted):
        return same_bits(view(found), view(wanted))
    pairs = ((found.support, wanted.support), (found.values, wanted.values))
    return all(same_bits(view(one), view(other)) for one, other in pairs)


def _options(hint: Coding, size: int, effort: Effort) -> Iterator[Option]:
    """Yield ways to write an array: along the hint, and, where that is cheap or there is none, by looking at it."""
    match hint:
        case Sparse(values=Codebook(codes=codes, centers=centers)) if effort == "best":
            merged = shared_sparse(view(hint.support), view(codes), view(centers), dtype(hint))
        case _:
            merged = None
    if merged is not None:
        yield merged
    guided = isinstance(hint, Affine | Codebook | Sparse | Hash | Reshape) and size > 0
    if guided:
        yield _along(hint, effort if merged is None else "fast")
    if not guided or size <= _SMALL:
        yield values(view(hint), dtype(hint), "fast" if guided else effort)


def _along(hint: Coding, effort: Effort) -> Option:  # noqa: PLR0911 one return per node
    """Return the hint's own structure with every slot in its smallest form."""
    match hint:
        case Codebook(codes=Shift(starts=starts)):
            codes, centers = view(hint.codes), view(hint.centers)
            plain = shared(codes, centers, dtype(hint), effort)
            return best([by_rows(codes, view(starts), centers, dtype(hint), effort), plain])
        case Codebook(codes=Runs() as runs):
            return _by_words(runs, hint.centers, effort)
        case Codebook():
            return shared(view(hint.codes), view(hint.centers), dtype(hint), effort)
        case Sparse():
            return sparse(view(hint.support), _along(hint.values, effort), effort)
        case Affine():
            return _levels(hint, effort)
        case Hash():
            return _hashed(hint, effort)
        case Reshape():
            return _reshaped(hint, _along(hint.values, effort))
        case _:
            return values(view(hint), dtype(hint), effort)


def _levels(hint: Affine, effort: Effort) -> Option:
    scale, zero = (_slot(slot, effort) for slot in (hint.scale, hint.zero))
    codes, indices = _slot(hint.codes, effort), trace(view(hint.codes))
    if indices is not None:
        codes = best([codes, _paths(indices, effort)])
    total = codes.bytes + scale.bytes + zero.bytes + RECORD
    return Option(total, lambda: Affine(codes.build(), scale.build(), zero.build(), hint.axis, hint.dtype))


def _slot(slot: Coding, effort: Effort) -> Option:
    if isinstance(slot, Reshape):  # models of a matrix see more in the shape inside
        return best([_reshaped(slot, _slot(slot.values, effort)), _slot(Dense(view(slot), dtype(slot)), "fast")])
    form = whole if dtype(slot) in INTEGERS else values
    return form(view(slot), dtype(slot), effort)


def _paths(indices: Array, effort: Effort) -> Option:
    width = next(kind for kind in (np.int8, np.int16, np.int32) if np.abs(indices).max() <= np.iinfo(kind).max)
    inner = whole(indices.astype(width), np.dtype(width).name, effort)
    fair = least_bytes(indices.shape)  # a file of fewer is filled up
    return Option(max(inner.bytes, fair) + RECORD, lambda: Paths(inner.build()))


def _reshaped(hint: Reshape, inner: Option) -> Option:
    if shape(hint.values) == hint.shape:
        return inner
    return Option(inner.bytes + RECORD, lambda: Reshape(inner.build(), hint.shape))


def _by_words(runs: Runs, centers: Coding, effort: Effort) -> Option:
    """Return the smallest way found to write one word for each subvector; centers on a grid stay as they are."""
    words, plain = view(runs.words), isinstance(centers, Dense)
    if plain:
        words, table = in_order(words, view(centers).reshape(-1, runs.width))
        outer = floats(table.reshape(-1), dtype(centers))
    else:
        outer = _along(centers, effort)
    inner = whole(words, words.dtype.name, effort)
    total = inner.bytes + outer.bytes + 2 * RECORD
    return Option(total, lambda: Codebook(Runs(inner.build(), runs.width, runs.shape), outer.build()))


def _hashed(hint: Hash, effort: Effort) -> Option:
    inner = _along(hint.buckets, effort)
    if hint.support is None:
        return Option(inner.bytes + RECORD, lambda: Hash(inner.build(), hint.seed, hint.shape))
    outer = support(view(hint.support), effort)
    total = inner.bytes + outer.bytes + RECORD
    return Option(total, lambda: Hash(inner.build(), hint.seed, hint.shape, outer.build()))
