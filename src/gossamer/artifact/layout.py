"""Placing: a header's records and the payload bytes to trees, with every bound checked before anything is decoded."""

from math import prod
from typing import assert_never

import numpy as np

from gossamer.artifact.header import (
    CODERS,
    MODELS,
    NAMES,
    AffineRecord,
    BitmapRecord,
    CodebookRecord,
    DenseRecord,
    EntropyRecord,
    GapsRecord,
    PackedRecord,
    PlanesRecord,
    Record,
    SparseRecord,
)
from gossamer.codings import (
    DTYPES,
    Affine,
    Bitmap,
    Codebook,
    Coding,
    Dense,
    Entropy,
    Gaps,
    Packed,
    Planes,
    Sparse,
    dense_nbytes,
    slots,
)
from gossamer.codings.nodes import Array
from gossamer.errors import ArtifactError, CodingError

MAX_DEPTH = 8
EXPANSION = 1 << 14
ALLOWANCE = 1 << 22


def decoded_bytes(node: Coding) -> int:
    """Return the bytes of the arrays that ``node`` and every node inside it decode to."""
    return dense_nbytes(node) + sum(decoded_bytes(inner) for _, inner in slots(node))


def bound(file_bytes: int) -> int:
    """Return the most bytes that all trees of a file of this length may decode to (`SPEC.md` section 5)."""
    return ALLOWANCE + EXPANSION * file_bytes


class Payload:
    """The payload of a file, taken from its front to its end, each byte once."""

    def __init__(self, data: Array, budget: int) -> None:
        self._data = data
        self._budget = budget
        self.taken = 0

    def take(self, length: int, where: str) -> Array:
        """Return the next ``length`` bytes."""
        if length > self._data.size - self.taken:
            raise ArtifactError(f"needs {length} bytes of payload, {self._data.size - self.taken} are left", where)
        part = self._data[self.taken : self.taken + length]
        self.taken += length
        return part

    def charge(self, amount: int, where: str) -> None:
        """Count ``amount`` decoded bytes against the bound."""
        self._budget -= amount
        if self._budget < 0:
            raise ArtifactError("decodes to more bytes than a file of this length may", where)

    def tree(self, record: Record, shape: tuple[int, ...], where: str) -> Coding:
        """Return the tree of ``record`` for an array of ``shape``, taking its leaves' bytes.

        Raises:
            ArtifactError: a bound is passed, bytes are missing, or the parts do not fit together.
        """
        try:
            return self._build(record, shape, where, MAX_DEPTH)
        except CodingError as error:
            raise ArtifactError(error.message, where) from None

    def _build(self, record: Record, shape: tuple[int, ...], where: str, depth: int) -> Coding:  # noqa: C901, PLR0911, PLR0912 one case per node
        if depth == 0:
            raise ArtifactError(f"codings are nested more than {MAX_DEPTH} deep", where)
        elements = prod(shape)
        self.charge(elements * _itemsize(record), where)

        def inner(slot: Record, dims: tuple[int, ...], name: str) -> Coding:
            return self._build(slot, dims, f"{where}/{name}", depth - 1)

        match record:
            case DenseRecord():
                name = NAMES[record.dtype]
                raw = self.take(elements * DTYPES[name].itemsize, where)
                if name == "bool" and raw.size and int(raw.max()) > 1:
                    raise ArtifactError("a boolean is neither 0 nor 1", where)
                return Dense(np.frombuffer(raw, DTYPES[name]).reshape(shape), name)
            case PackedRecord():
                raw = self.take((elements * record.bits + 7) // 8, where)
                return Packed(raw, record.bits, record.low, shape, NAMES[record.dtype])
            case EntropyRecord():
                raw = self.take(record.length, where)
                model = MODELS[record.mode % len(MODELS)]
                coder = CODERS[record.mode // len(MODELS)]
                return Entropy(raw, shape, NAMES[record.dtype], record.low, record.alphabet, model, coder)
            case BitmapRecord():
                return Bitmap(inner(record.bits, ((elements + 7) // 8,), "bits"), shape)
            case GapsRecord():
                return Gaps(inner(record.gaps, (record.count,), "gaps"), shape)
            case AffineRecord():
                if record.axis is not None and record.axis >= len(shape):
                    raise ArtifactError(f"axis {record.axis} is outside {len(shape)} dimensions", where)
                along = () if record.axis is None else (shape[record.axis],)
                codes, scale = inner(record.codes, shape, "codes"), inner(record.scale, along, "scale")
                return Affine(codes, scale, inner(record.zero, along, "zero"), record.axis, NAMES[record.dtype])
            case CodebookRecord():
                codes = inner(record.codes, shape, "codes")
                return Codebook(codes, inner(record.centers, (record.count,), "centers"))
            case SparseRecord():
                support = inner(record.support, shape, "support")
                return Sparse(support, inner(record.values, (record.count,), "values"))
            case PlanesRecord():
                planes = [inner(plane, shape, str(index)) for index, plane in enumerate(record.planes)]
                return Planes(tuple(planes), NAMES[record.dtype])
            case _:
                assert_never(record)


def _itemsize(record: Record) -> int:
    match record:
        case DenseRecord() | PackedRecord() | EntropyRecord() | AffineRecord() | PlanesRecord():
            return DTYPES[NAMES[record.dtype]].itemsize
        case BitmapRecord() | GapsRecord():
            return 1
        case CodebookRecord():
            return _itemsize(record.centers)
        case SparseRecord():
            return _itemsize(record.values)
        case _:
            assert_never(record)
