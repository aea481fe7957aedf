"""How two files differ: tensors, values, codings and bytes."""

from pathlib import Path

import msgspec
import numpy as np

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.books import stored_bytes
from gossamer.artifact.container import loads
from gossamer.artifact.files import read_bytes
from gossamer.codings import describe, dtype, shape
from gossamer.codings.bits import bit_view
from gossamer.codings.nodes import Array
from gossamer.errors import about

_Read = tuple[str | Path, Artifact]


class TensorChange(msgspec.Struct, frozen=True):
    """A tensor that differs, as pairs ``(in a, in b)``.

    ``values_changed`` (bit patterns that differ) is None where shape or dtype differ; so is ``largest_change``, the
    largest absolute difference of two values, which is also None where numpy cannot compute with the dtype.
    """

    name: str
    shape: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: tuple[str, str]
    coding: tuple[str, str]
    bytes: tuple[int, int]
    values_changed: int | None
    largest_change: float | None


class Difference(msgspec.Struct, frozen=True):
    """How file ``b`` differs from file ``a``; ``parts`` names what else differs: aliases, edits, graph and so on."""

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    changed: tuple[TensorChange, ...]
    unchanged: int
    bytes: tuple[int, int]
    parts: tuple[str, ...]


def diff(path_a: str | Path, path_b: str | Path, *, max_bytes: int = 1 << 34) -> Difference:
    """Compare two files.

    Raises:
        ArtifactError: one of them cannot be read or is not sound.
    """
    data_a, data_b = read_bytes(path_a), read_bytes(path_b)
    with about(path_a):
        a = loads(data_a, max_bytes=max_bytes)
    with about(path_b):
        b = loads(data_b, max_bytes=max_bytes)
    both = [name for name in a.tensors if name in b.tensors]
    stored = stored_bytes(a.tensors), stored_bytes(b.tensors)
    changes = [_compare((path_a, a), (path_b, b), name, (stored[0][name], stored[1][name])) for name in both]
    changed = tuple(change for change in changes if change is not None)
    others = ("aliases", "edits", "activations", "graph", "meta")
    return Difference(
        only_a=tuple(name for name in a.tensors if name not in b.tensors),
        only_b=tuple(name for name in b.tensors if name not in a.tensors),
        changed=changed,
        unchanged=len(both) - len(changed),
        bytes=(len(data_a), len(data_b)),
        parts=tuple(part for part in others if getattr(a, part) != getattr(b, part)),
    )


def _compare(a: _Read, b: _Read, name: str, stored: tuple[int, int]) -> TensorChange | None:
    left, right = a[1].tensors[name], b[1].tensors[name]
    counted = largest = None
    if shape(left) == shape(right) and dtype(left) == dtype(right):
        x, y = _array(a, name), _array(b, name)
        counted = int(np.count_nonzero(bit_view(x) != bit_view(y)))
        largest = _largest(x, y, dtype(left))
    if counted == 0 and describe(left) == describe(right) and stored[0] == stored[1]:
        return None
    return TensorChange(
        name=name,
        shape=(shape(left), shape(right)),
        dtype=(dtype(left), dtype(right)),
        coding=(describe(left), describe(right)),
        bytes=stored,
        values_changed=counted,
        largest_change=largest,
    )


def _array(read: _Read, name: str) -> Array:
    path, artifact = read
    with about(path):
        return artifact.array(name)


def _largest(x: Array, y: Array, name: str) -> float | None:
    if name.startswith("float8"):
        return None
    if name == "bfloat16":
        x, y = ((part.astype(np.uint32) << 16).view(np.float32) for part in (x, y))
    with np.errstate(all="ignore"):
        change = np.abs(x.astype(np.float64) - y.astype(np.float64))
    return float(np.nanmax(change, initial=0.0))
