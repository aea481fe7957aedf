"""Looking at a tree as a whole: its slots, its leaves, its bytes, and the tree in one line."""

from collections.abc import Container, Iterator
from typing import assert_never

from gossamer.codings.nodes import (
    DTYPES,
    Affine,
    Bitmap,
    Codebook,
    Coding,
    Dense,
    Entropy,
    Gaps,
    Hash,
    Packed,
    Paths,
    Planes,
    Reshape,
    Runs,
    Shift,
    Sparse,
    dtype,
    size,
)


def slots(node: Coding) -> tuple[tuple[str, Coding], ...]:  # noqa: C901, PLR0911, PLR0912 one return per node
    """Return the inner slots of ``node`` with their names, in stored order."""
    match node:
        case Dense() | Packed() | Entropy():
            return ()
        case Bitmap():
            return (("bits", node.bits),)
        case Gaps():
            return (("gaps", node.gaps),)
        case Affine():
            return (("codes", node.codes), ("scale", node.scale), ("zero", node.zero))
        case Codebook():
            return (("codes", node.codes), ("centers", node.centers))
        case Sparse():
            return (("support", node.support), ("values", node.values))
        case Shift():
            return (("values", node.values), ("starts", node.starts))
        case Runs():
            return (("words", node.words),)
        case Reshape():
            return (("values", node.values),)
        case Paths():
            return (("indices", node.indices),)
        case Planes():
            return tuple((str(index), plane) for index, plane in enumerate(node.planes))
        case Hash():
            support = () if node.support is None else (("support", node.support),)
            return (("buckets", node.buckets), *support)
        case _:
            assert_never(node)


def leaves(node: Coding, known: Container[Coding] = ()) -> Iterator[Dense | Packed | Entropy]:
    """Yield the leaves of ``node`` in stored order, but not those of a codebook's centers that are ``known``."""
    if isinstance(node, Dense | Packed | Entropy):
        yield node
        return
    for _, inner in new_slots(node, known):
        yield from leaves(inner, known)


def new_slots(node: Coding, known: Container[Coding]) -> Iterator[tuple[str, Coding]]:
    """Yield the inner slots of ``node``, but not a codebook's centers that are ``known``."""
    for name, inner in slots(node):
        if not (isinstance(node, Codebook) and inner is node.centers and inner in known):
            yield name, inner


def nbytes(node: Coding, known: Container[Coding] = ()) -> int:
    """Return the bytes of ``node``'s payload as stored: everything but its description in the header.

    Args:
        node: a tree.
        known: centers that another tensor's codebook has in the same file already.
    """
    stored = (leaf.array if isinstance(leaf, Dense) else leaf.data for leaf in leaves(node, known))
    return sum(array.nbytes for array in stored)


def dense_nbytes(node: Coding) -> int:
    """Return the bytes of the array that ``node`` decodes to."""
    return size(node) * DTYPES[dtype(node)].itemsize


def describe(node: Coding) -> str:
    """Return the tree in one line, such as ``codebook(entropy static/ans of 32, dense float32)``: 32 codes."""
    match node:
        case Dense():
            return f"dense {node.dtype}"
        case Packed():
            return f"packed {node.bits}b"
        case Entropy():
            return f"entropy {node.model}/{node.coder} of {node.alphabet}"
        case (
            Bitmap()
            | Gaps()
            | Affine()
            | Codebook()
            | Sparse()
            | Planes()
            | Hash()
            | Shift()
            | Runs()
            | Reshape()
            | Paths()
        ):
            inner = ", ".join(describe(slot) for _, slot in slots(node))
            return f"{type(node).__name__.lower()}({inner})"
        case _:
            assert_never(node)
