"""Where tensors come from: a state dict as names, shapes and dtypes that are known, and values that are read singly."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple, Protocol

from gossamer.codings import DTYPES, Dense
from gossamer.codings.nodes import Array
from gossamer.errors import CodingError, StateError


class Entry(NamedTuple):
    """What is known of a tensor before it is read: its name, its dtype (a name of `DTYPES`) and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as an array."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


class Source(Protocol):
    """A state dict whose tensors are read one at a time.

    Attributes:
        entries: every tensor, in the order they are best read.
        aliases: names without a tensor of their own: name to the entry's that holds it (tied weights).
        metadata: texts that a file carries beside its tensors.
    """

    @property
    def entries(self) -> Sequence[Entry]: ...  # noqa: D102

    @property
    def aliases(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def metadata(self) -> Mapping[str, str]: ...  # noqa: D102

    def read(self, entry: Entry) -> Dense:
        """Return one tensor.

        Raises:
            StateError: it cannot be read.
        """


class Arrays:
    """Arrays that are in memory, by name; ``bfloat16`` and 8-bit floats as `Dense` nodes that name their dtype.

    Raises:
        StateError: a value is no array, or of a dtype that cannot be stored.
    """

    aliases: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}

    def __init__(self, arrays: Mapping[str, Array | Dense]) -> None:
        self._nodes: dict[str, Dense] = {}
        for name, value in arrays.items():
            try:
                self._nodes[name] = value if isinstance(value, Dense) else Dense(value)
            except CodingError as error:
                raise StateError(f"tensor {name}: {error.message}") from error
        self.entries = [Entry(name, node.dtype, node.array.shape) for name, node in self._nodes.items()]

    def read(self, entry: Entry) -> Dense:
        """Return one tensor."""
        return self._nodes[entry.name]
