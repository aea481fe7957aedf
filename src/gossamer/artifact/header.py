"""The header: typed structs in array form, so that a field costs its value and no name (`SPEC.md` section 3)."""

from typing import Annotated, Any, assert_never

import msgspec
from msgspec import Meta

from gossamer.artifact.books import Known
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
    shape,
    size,
)
from gossamer.codings.nodes import CoderName, ModelName

NAMES = tuple(DTYPES)
MODELS: tuple[ModelName, ...] = ("static", "adaptive", "mixed", "outlined", "blended")
CODERS: tuple[CoderName, ...] = ("ans", "range")
_FIRST = 3  # models that format version 1 began with; modes of the later ones follow theirs
MODES = tuple((model, coder) for some in (MODELS[:_FIRST], MODELS[_FIRST:]) for coder in CODERS for model in some)

Count = Annotated[int, Meta(ge=0, le=1 << 40)]
Crc = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Low = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
DtypeNumber = Annotated[int, Meta(ge=0, le=len(NAMES) - 1)]
Bits = Annotated[int, Meta(ge=0, le=32)]
Alphabet = Annotated[int, Meta(ge=1, le=1 << 16)]
Mode = Annotated[int, Meta(ge=0, le=len(MODES) - 1)]
Axis = Annotated[int, Meta(ge=0, le=31)]
Width = Annotated[int, Meta(ge=1, le=(1 << 32) - 1)]
Seed = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base: stored as a msgpack array of exactly its fields."""


class DenseRecord(_Record, frozen=True, tag=0):
    """`Dense`: dtype; the payload is the array."""

    dtype: DtypeNumber


class PackedRecord(_Record, frozen=True, tag=1):
    """`Packed`."""

    dtype: DtypeNumber
    bits: Bits
    low: Low


class EntropyRecord(_Record, frozen=True, tag=2):
    """`Entropy`: mode is model + 3 * coder; length is the payload's bytes."""

    dtype: DtypeNumber
    low: Low
    alphabet: Alphabet
    mode: Mode
    length: Count


class BitmapRecord(_Record, frozen=True, tag=3):
    """`Bitmap`."""

    bits: "Record"


class GapsRecord(_Record, frozen=True, tag=4):
    """`Gaps`: count is the number of true elements."""

    gaps: "Record"
    count: Count


class AffineRecord(_Record, frozen=True, tag=5):
    """`Affine`."""

    codes: "Record"
    scale: "Record"
    zero: "Record"
    axis: Axis | None
    dtype: DtypeNumber


class CodebookRecord(_Record, frozen=True, tag=6):
    """`Codebook`: count is the number of centers."""

    codes: "Record"
    centers: "Record | SameRecord"
    count: Count


class SparseRecord(_Record, frozen=True, tag=7):
    """`Sparse`: count is the number of values."""

    support: "Record"
    values: "Record"
    count: Count


class PlanesRecord(_Record, frozen=True, tag=8):
    """`Planes`."""

    planes: Annotated[list["Record"], Meta(min_length=2, max_length=8)]
    dtype: DtypeNumber


class HashRecord(_Record, frozen=True, tag=9):
    """`Hash`: count is the number of buckets; support is nil where no element is zeroed."""

    buckets: "Record"
    support: "Record | None"
    count: Count
    seed: Seed


class SameRecord(_Record, frozen=True, tag=11):
    """The centers of an earlier tensor's codebook, by the number of these centers in the file."""

    dtype: DtypeNumber
    number: Count


class ShiftRecord(_Record, frozen=True, tag=10):
    """`Shift`."""

    values: "Record"
    starts: "Record"


class RunsRecord(_Record, frozen=True, tag=12):
    """`Runs`."""

    words: "Record"
    width: Width


class ReshapeRecord(_Record, frozen=True, tag=13):
    """`Reshape`: the shape inside."""

    values: "Record"
    shape: Annotated[list[Count], Meta(max_length=32)]


class PathsRecord(_Record, frozen=True, tag=14):
    """`Paths`."""

    indices: "Record"


Record = (
    DenseRecord
    | PackedRecord
    | EntropyRecord
    | BitmapRecord
    | GapsRecord
    | AffineRecord
    | CodebookRecord
    | SparseRecord
    | PlanesRecord
    | HashRecord
    | ShiftRecord
    | RunsRecord
    | ReshapeRecord
    | PathsRecord
)


class TensorRecord(_Record, frozen=True):
    """One tensor."""

    name: str
    shape: Annotated[list[Count], Meta(max_length=32)]
    coding: Record


class BlobRecord(_Record, frozen=True):
    """One blob: how many tensors, in order, it holds, and the CRC-32 of its bytes."""

    tensors: Annotated[int, Meta(ge=1)]
    crc: Crc


class GraphRecord(_Record, frozen=True):
    """The graph: codec 0 stored, 1 deflate, 2 LZMA; its bytes before and after; CRC-32 of the stored bytes."""

    codec: Annotated[int, Meta(ge=0, le=2)]
    stored: Count
    length: Count
    crc: Crc


class Header(_Record, frozen=True):
    """Everything but the payloads."""

    tensors: list[TensorRecord]
    blobs: list[BlobRecord]
    aliases: dict[str, str]
    edits: list[dict[str, Any]]
    activations: dict[str, dict[str, Any]]
    meta: dict[str, Any]
    graph: GraphRecord | None
    padding: Count


def record(node: Coding, known: Known) -> Record:  # noqa: C901, PLR0911, PLR0912 one case per node
    """Return the header's record of ``node``; shapes that follow from the parent are left out.

    Args:
        node: a tree or one of its slots.
        known: the numbers of centers that earlier tensors have written.
    """

    def inner(slot: Coding) -> Record:
        return record(slot, known)

    match node:
        case Dense():
            return DenseRecord(NAMES.index(node.dtype))
        case Packed():
            return PackedRecord(NAMES.index(node.dtype), node.bits, node.low)
        case Entropy():
            mode = MODES.index((node.model, node.coder))
            return EntropyRecord(NAMES.index(node.dtype), node.low, node.alphabet, mode, node.data.nbytes)
        case Bitmap():
            return BitmapRecord(inner(node.bits))
        case Gaps():
            return GapsRecord(inner(node.gaps), size(node.gaps))
        case Affine():
            parts = (inner(node.codes), inner(node.scale), inner(node.zero))
            return AffineRecord(*parts, node.axis, NAMES.index(node.dtype))
        case Codebook():
            centers: Record | SameRecord = inner(node.centers)
            if node.centers in known:
                centers = SameRecord(NAMES.index(dtype(node.centers)), known[node.centers])
            return CodebookRecord(inner(node.codes), centers, size(node.centers))
        case Sparse():
            return SparseRecord(inner(node.support), inner(node.values), size(node.values))
        case Planes():
            return PlanesRecord([inner(plane) for plane in node.planes], NAMES.index(node.dtype))
        case Hash():
            support = None if node.support is None else inner(node.support)
            return HashRecord(inner(node.buckets), support, size(node.buckets), node.seed)
        case Shift():
            return ShiftRecord(inner(node.values), inner(node.starts))
        case Runs():
            return RunsRecord(inner(node.words), node.width)
        case Reshape():
            return ReshapeRecord(inner(node.values), list(shape(node.values)))
        case Paths():
            return PathsRecord(inner(node.indices))
        case _:
            assert_never(node)


def dtype_of(entry: Record | SameRecord) -> str:  # noqa: PLR0911 one return per node
    """Return the dtype of the array that a record stands for, a name of `DTYPES`."""
    match entry:
        case BitmapRecord() | GapsRecord():
            return "bool"
        case CodebookRecord():
            return dtype_of(entry.centers)
        case SparseRecord():
            return dtype_of(entry.values)
        case HashRecord():
            return dtype_of(entry.buckets)
        case ShiftRecord():
            return dtype_of(entry.starts)
        case ReshapeRecord():
            return dtype_of(entry.values)
        case RunsRecord():
            return "uint32"
        case PathsRecord():
            return "int32"
        case _:
            return NAMES[entry.dtype]
