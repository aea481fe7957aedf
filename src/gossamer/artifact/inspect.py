"""What is in a file, tensor by tensor, in bytes as they are on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.books import stored_bytes
from gossamer.artifact.container import loads, parts, read_header
from gossamer.artifact.files import read_bytes
from gossamer.codings import dense_nbytes, describe, dtype, shape
from gossamer.codings.bits import bit_view
from gossamer.codings.nodes import FLOATS, Array
from gossamer.errors import about


class TensorSummary(msgspec.Struct, frozen=True):
    """One tensor: its coding in one line, stored and dense bytes, the share of its values that are not zero.

    ``distinct`` counts the different values that are not zero, as a report does.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    coding: str
    bytes: int
    dense_bytes: int
    bits_per_weight: float
    density: float
    distinct: int


class Summary(msgspec.Struct, frozen=True):
    """A file: ``bytes = header_bytes + tensor_bytes + graph_bytes + padding_bytes``.

    ``weights_only_bytes`` is what the file has, or would have, without the graph. ``dense_bytes`` is the base of both
    ratios: what the file says of the model it was made from, or else every tensor as a dense array, no container.
    ``ratio`` is over ``weights_only_bytes``, ``file_ratio`` over ``bytes``.
    """

    path: str
    bytes: int
    weights_only_bytes: int
    header_bytes: int
    tensor_bytes: int
    graph_bytes: int
    padding_bytes: int
    dense_bytes: int
    ratio: float
    file_ratio: float
    self_contained: bool
    tensors: tuple[TensorSummary, ...]
    aliases: Mapping[str, str]
    edits: Sequence[Mapping[str, Any]]
    activations: Mapping[str, Mapping[str, Any]]
    meta: Mapping[str, Any]


def inspect(path: str | Path, *, max_bytes: int = 1 << 34) -> Summary:
    """Return what is in the file, after decoding every tensor.

    Raises:
        ArtifactError: the file cannot be read or is not sound.
    """
    data = read_bytes(path)
    with about(path):
        artifact = loads(data, max_bytes=max_bytes)
        header, start = read_header(data)
        stored = stored_bytes(artifact.tensors)
        rows = tuple(_row(artifact, name, stored[name]) for name in artifact.tensors)
    weights_only = sum(map(len, parts(replace(artifact, graph=None)))) if artifact.graph is not None else len(data)
    said = artifact.meta.get("dense_bytes")
    dense = said if isinstance(said, int) and said > 0 else sum(row.dense_bytes for row in rows)
    return Summary(
        path=str(path),
        bytes=len(data),
        weights_only_bytes=weights_only,
        header_bytes=start,
        tensor_bytes=sum(row.bytes for row in rows),
        graph_bytes=header.graph.stored if header.graph else 0,
        padding_bytes=header.padding,
        dense_bytes=dense,
        ratio=dense / weights_only,
        file_ratio=dense / len(data),
        self_contained=artifact.graph is not None,
        tensors=rows,
        aliases=artifact.aliases,
        edits=artifact.edits,
        activations=artifact.activations,
        meta=artifact.meta,
    )


def _row(artifact: Artifact, name: str, stored: int) -> TensorSummary:
    node = artifact.tensors[name]
    bits = bit_view(artifact.array(name))
    kept = bits[_nonzero(bits, dtype(node))]
    return TensorSummary(
        name=name,
        shape=shape(node),
        dtype=dtype(node),
        coding=describe(node),
        bytes=stored,
        dense_bytes=dense_nbytes(node),
        bits_per_weight=8 * stored / max(bits.size, 1),
        density=kept.size / max(bits.size, 1),
        distinct=int(np.unique(kept).size),
    )


def _nonzero(bits: Array, name: str) -> Array:
    """Return where the values are not zero; minus zero is zero."""
    signless = bits & ~bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1)) if name in FLOATS else bits
    return np.asarray(signless != 0)
