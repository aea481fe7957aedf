"""Placing: a header's records and the payload bytes to trees, with every bound checked before anything is decoded."""

import zlib
from collections.abc import Callable
from math import prod
from typing import assert_never

import numpy as np

from gossamer.artifact.header import (
    MODES,
    NAMES,
    AffineRecord,
    BitmapRecord,
    CodebookRecord,
    DenseRecord,
    EntropyRecord,
    GapsRecord,
    HashRecord,
    PackedRecord,
    PathsRecord,
    PlanesRecord,
    Record,
    ReshapeRecord,
    RunsRecord,
    SameRecord,
    ShiftRecord,
    SparseRecord,
)
from gossamer.coders import least_bytes
from gossamer.codings import (
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
    paths,
    shape,
    slots,
)
from gossamer.codings.nodes import Array, ModelName, runs_shape
from gossamer.errors import ArtifactError, CodingError

MAX_DEPTH = 8
MAX_DIMENSIONS, MAX_ELEMENTS = 32, 1 << 40
COST_PER_BYTE = 1 << 14
FREE_COST = 1 << 23
_NODE_COST, _ELEMENT_COST, _SYMBOL_COST, _HASH_COST = 1 << 14, 8, 64, 24


def bound(file_bytes: int) -> int:
    """Return the greatest cost of a file of this length (`SPEC.md` section 5)."""
    return FREE_COST + COST_PER_BYTE * file_bytes


def node_cost(
    shape: tuple[int, ...], alphabet: int = 0, model: ModelName | None = None, *, kind: type[Record | Coding] = Dense
) -> int:
    """Return the cost of decoding one node without its slots: no more bytes than this are allocated for it."""
    each = _ELEMENT_COST + (_HASH_COST if kind in {Hash, HashRecord} else 0)
    cost = _NODE_COST + each * prod(shape) + _SYMBOL_COST * alphabet
    if kind in {Paths, PathsRecord}:
        cost += COST_PER_BYTE * paths.least_bytes(shape)
    if model is not None:
        cost += COST_PER_BYTE * least_bytes(shape, alphabet, model)
    return cost


def tree_cost(node: Coding) -> int:
    """Return the cost of decoding ``node`` with all its slots."""
    if isinstance(node, Entropy):
        return node_cost(node.shape, node.alphabet, node.model)
    return node_cost(shape(node), kind=type(node)) + sum(tree_cost(inner) for _, inner in slots(node))


def check_tree(node: Coding, where: str) -> None:
    """Refuse a tree that no reader would accept.

    Raises:
        ArtifactError: it is nested too deep, or its array has too many dimensions.
    """
    if len(shape(node)) > MAX_DIMENSIONS:
        raise ArtifactError(f"a shape has at most {MAX_DIMENSIONS} dimensions, got {len(shape(node))}", where)
    if _depth(node) > MAX_DEPTH:
        raise ArtifactError(f"codings are nested more than {MAX_DEPTH} deep", where)


def _depth(node: Coding) -> int:
    return 1 + max((_depth(inner) for _, inner in slots(node)), default=0)


class Payload:
    """The payload of a file, taken from its front to its end, each byte once.

    Args:
        read: returns the next so many bytes of the file, which are there.
        length: bytes of the payload.
        budget: bound on the cost of decoding it.

    Attributes:
        left: bytes not taken yet.
        crc: CRC-32 of what was taken since it was last set to zero.
    """

    def __init__(self, read: Callable[[int], Array], length: int, budget: int) -> None:
        self._read = read
        self._budget = budget
        self._centers: list[Coding] = []
        self.left = length
        self.crc = 0

    def take(self, length: int, where: str) -> Array:
        """Return the next ``length`` bytes."""
        if length > self.left:
            raise ArtifactError(f"needs {length} bytes of payload, {self.left} are left", where)
        self.left -= length
        part = self._read(length)
        self.crc = zlib.crc32(part.data, self.crc)
        return part

    def charge(self, amount: int, where: str) -> None:
        """Count ``amount`` against the bound on cost."""
        self._budget -= amount
        if self._budget < 0:
            raise ArtifactError("costs more to decode than a file of this length may", where)

    def tree(self, record: Record, dims: tuple[int, ...], where: str) -> Coding:
        """Return the tree of ``record`` for an array of ``dims``, taking its leaves' bytes.

        Raises:
            ArtifactError: a bound is passed, bytes are missing, or the parts do not fit together.
        """
        try:
            return self._build(record, dims, where, MAX_DEPTH)
        except CodingError as error:
            raise ArtifactError(error.message, where) from None

    # One case per node.
    def _build(self, record: Record, dims: tuple[int, ...], where: str, depth: int) -> Coding:  # noqa: C901, PLR0911, PLR0912
        if depth == 0:
            raise ArtifactError(f"codings are nested more than {MAX_DEPTH} deep", where)
        elements = prod(dims)
        if not isinstance(record, EntropyRecord):
            self.charge(node_cost(dims, kind=type(record)), where)

        def inner(slot: Record, size: tuple[int, ...], name: str) -> Coding:
            return self._build(slot, size, f"{where}/{name}", depth - 1)

        match record:
            case DenseRecord():
                name = NAMES[record.dtype]
                raw = self.take(elements * DTYPES[name].itemsize, where)
                if name == "bool" and raw.size and int(raw.max()) > 1:
                    raise ArtifactError("a boolean is neither 0 nor 1", where)
                return Dense(np.frombuffer(raw, DTYPES[name]).reshape(dims), name)
            case PackedRecord():
                raw = self.take((elements * record.bits + 7) // 8, where)
                return Packed(raw, record.bits, record.low, dims, NAMES[record.dtype])
            case EntropyRecord():
                model, coder = MODES[record.mode]
                self.charge(node_cost(dims, record.alphabet, model), where)
                raw = self.take(record.length, where)
                return Entropy(raw, dims, NAMES[record.dtype], record.low, record.alphabet, model, coder)
            case BitmapRecord():
                return Bitmap(inner(record.bits, ((elements + 7) // 8,), "bits"), dims)
            case GapsRecord():
                return Gaps(inner(record.gaps, (record.count,), "gaps"), dims)
            case AffineRecord():
                if record.axis is not None and record.axis >= len(dims):
                    raise ArtifactError(f"axis {record.axis} is outside {len(dims)} dimensions", where)
                along = () if record.axis is None else (dims[record.axis],)
                codes, scale = inner(record.codes, dims, "codes"), inner(record.scale, along, "scale")
                return Affine(codes, scale, inner(record.zero, along, "zero"), record.axis, NAMES[record.dtype])
            case CodebookRecord():
                codes = inner(record.codes, dims, "codes")
                if isinstance(record.centers, SameRecord):
                    return Codebook(codes, self._same(record.centers, (record.count,), f"{where}/centers", depth - 1))
                self._centers.append(inner(record.centers, (record.count,), "centers"))
                return Codebook(codes, self._centers[-1])
            case SparseRecord():
                support = inner(record.support, dims, "support")
                return Sparse(support, inner(record.values, (record.count,), "values"))
            case PlanesRecord():
                planes = [inner(plane, dims, str(index)) for index, plane in enumerate(record.planes)]
                return Planes(tuple(planes), NAMES[record.dtype])
            case HashRecord():
                buckets = inner(record.buckets, (record.count,), "buckets")
                zeroed = None if record.support is None else inner(record.support, dims, "support")
                return Hash(buckets, record.seed, dims, zeroed)
            case ShiftRecord():
                return Shift(inner(record.values, dims, "values"), inner(record.starts, dims[:1], "starts"))
            case RunsRecord():
                return Runs(inner(record.words, runs_shape(dims, record.width), "words"), record.width, dims)
            case ReshapeRecord():
                if prod(record.shape) != elements or prod(max(size, 1) for size in record.shape) > MAX_ELEMENTS:
                    raise ArtifactError(f"shape {record.shape} inside one of {list(dims)}", where)
                return Reshape(inner(record.values, tuple(record.shape), "values"), dims)
            case PathsRecord():
                return Paths(inner(record.indices, dims, "indices"))
            case _:
                assert_never(record)

    def _same(self, record: SameRecord, dims: tuple[int, ...], where: str, depth: int) -> Coding:
        """Return the centers that an earlier codebook has written."""
        if record.number >= len(self._centers):
            raise ArtifactError(f"names centers {record.number}, {len(self._centers)} are written before", where)
        centers = self._centers[record.number]
        if (dtype(centers), shape(centers)) != (NAMES[record.dtype], dims):
            got = f"{dtype(centers)} {shape(centers)}"
            raise ArtifactError(f"names centers that are {got}, wanted {NAMES[record.dtype]} {dims}", where)
        if _depth(centers) > depth:
            raise ArtifactError(f"codings are nested more than {MAX_DEPTH} deep", where)
        self.charge(tree_cost(centers), where)
        return centers
