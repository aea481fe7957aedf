"""Options: ways to write an array, each with its estimated bytes, built only when chosen."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gossamer.codings.nodes import Array, Coding, Dense

RECORD = 5
"""Bytes that a node costs in the header, about; a candidate with more nodes must earn them."""


class Option(NamedTuple):
    """A way to write an array."""

    bytes: float
    build: Callable[[], Coding]


def best(options: Iterable[Option]) -> Option:
    """Return the option with the fewest bytes; of equals the first."""
    return min(options, key=lambda option: option.bytes)


def dense(array: Array, name: str) -> Option:
    """Return the option to store ``array`` raw."""
    return Option(array.nbytes + RECORD, lambda: Dense(array, name))
