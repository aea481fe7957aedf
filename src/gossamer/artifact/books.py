"""Centers that codebooks of several tensors have in common: the file holds them once (`SPEC.md` 4.7).

In memory each tree is whole: what codebooks have in common is one object in all of them. The first tensor that has it
writes it; later ones name it by its number.
"""

from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary

from gossamer.codings import Codebook, Coding, nbytes, new_slots

Known = Mapping[Coding, int]
"""The number of each node that was written as the centers of a codebook; nodes are told apart by identity."""


class Books:
    """Counts the centers that a writer has written; holds none of them in memory."""

    def __init__(self) -> None:
        self.known: WeakKeyDictionary[Coding, int] = WeakKeyDictionary()
        self._count = 0

    def close(self, node: Coding) -> None:
        """Number the centers that the tensor ``node`` has written."""
        for centers in list(written(node, self.known)):
            self.known[centers] = self._count
            self._count += 1


def written(node: Coding, known: Known) -> Iterator[Coding]:
    """Yield the centers of the codebooks of ``node`` that ``known`` does not have, in the order in which they end."""
    for _, slot in new_slots(node, known):
        yield from written(slot, known)
    if isinstance(node, Codebook) and node.centers not in known:
        yield node.centers


def stored_bytes(tensors: Mapping[str, Coding]) -> dict[str, int]:
    """Return the bytes of each tensor in the payload; centers in common count for the first that has them."""
    books, counts = Books(), {}
    for name, node in tensors.items():
        counts[name] = nbytes(node, books.known)
        books.close(node)
    return counts
