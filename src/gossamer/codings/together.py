"""Encoding all arrays of a file: those whose hints have one codebook in common may keep it in common."""

from collections.abc import Container, Mapping

import numpy as np

from gossamer.codings.bits import same_bits
from gossamer.codings.decode import view
from gossamer.codings.encode import encode
from gossamer.codings.nodes import Array, Codebook, Coding, Dense, Sparse
from gossamer.codings.option import RECORD, Option, best
from gossamer.codings.tree import nbytes
from gossamer.codings.values import floats, sparse, tidy
from gossamer.codings.whole import whole
from gossamer.errors import CodingError


def encode_all(hints: Mapping[str, Coding], *, structured: Container[str] = ()) -> dict[str, Coding]:
    """Return the smallest exact tree found for each array.

    Codebooks whose centers are one and the same node in several hints are tried with one node of centers in all trees,
    which a file holds once, and with centers of their own.

    Args:
        hints: a tree for each name, as for `encode`.
        structured: names of the hints whose structure is kept.

    Raises:
        CodingError: a hint's parts do not fit together, or its dtype is unknown.
    """
    found = {name: encode(hint, structured=name in structured) for name, hint in hints.items()}
    for centers, names in _families(hints):
        common, once = _together({name: hints[name] for name in names}, centers, structured)
        repeats = (len(names) - 1) * once
        if sum(map(nbytes, common.values())) - repeats < sum(nbytes(found[name]) for name in names):
            found |= common
    return found


def _families(hints: Mapping[str, Coding]) -> list[tuple[Dense, list[str]]]:
    """Return centers that several hints have in common, with their names."""
    families: dict[Dense, list[str]] = {}
    for name, hint in hints.items():
        centers = _centers(hint)
        if centers is not None:
            families.setdefault(centers, []).append(name)
    return [(centers, names) for centers, names in families.items() if len(names) > 1]


def _centers(hint: Coding) -> Dense | None:
    """Return the centers of a hint of shared values, where they are dense."""
    match hint:
        case Codebook(centers=Dense() as centers) | Sparse(values=Codebook(centers=Dense() as centers)):
            return centers
        case _:
            return None


def _together(hints: Mapping[str, Coding], first: Dense, structured: Container[str]) -> tuple[dict[str, Coding], int]:
    """Return trees with one node of centers, a zero among these where a hint is sparse, and the bytes of that node."""
    centers = np.append(first.array, np.zeros(1, first.array.dtype))
    every = [_codes(hint, centers.size - 1) for hint in hints.values()]
    used = np.unique(np.concatenate([np.unique(codes) for codes in every]))
    places, kept = tidy(used, centers, first.dtype)
    table = np.zeros(centers.size, places.dtype)
    table[used] = places
    common = floats(kept, first.dtype).build()
    trees: dict[str, Coding] = {}
    for (name, hint), codes in zip(hints.items(), every, strict=True):
        trees[name] = _least(hint, table[codes], common, structured=name in structured)
        if not same_bits(view(trees[name]), view(hint)):
            raise CodingError(f"{name}: its tree does not decode to its array; please report this with the array")
    return trees, nbytes(common)


def _least(hint: Coding, codes: Array, centers: Coding, *, structured: bool) -> Coding:
    """Return the smallest tree of ``codes``, which are those of all elements, with the support apart or among them."""
    options = [] if isinstance(hint, Sparse) and structured else [_shared(codes, centers)]
    if isinstance(hint, Sparse):
        where = view(hint.support)
        options.append(sparse(where, _shared(codes[where], centers), "best"))
    return best(options).build()


def _codes(hint: Coding, zero: int) -> Array:
    """Return the codes of all elements, ``zero`` outside a support."""
    match hint:
        case Sparse(values=Codebook(codes=inner)):
            where = view(hint.support)
            full = np.full(where.shape, zero, np.int64)
            full[where] = view(inner)
            return full
        case Codebook():
            return view(hint.codes).astype(np.int64)
        case _:
            raise CodingError(f"wanted a codebook, got {type(hint).__name__}")


def _shared(codes: Array, centers: Coding) -> Option:
    inner = whole(codes, codes.dtype.name, "best")
    return Option(inner.bytes + RECORD, lambda: Codebook(inner.build(), centers))
