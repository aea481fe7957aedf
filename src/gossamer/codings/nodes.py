"""The closed algebra of codings: frozen trees over numpy arrays.

Every node is a way to write down one array. Leaves hold bytes (`Dense`, `Packed`, `Entropy`); inner nodes hold other
nodes in their slots (`Bitmap`, `Gaps`, `Affine`, `Codebook`, `Sparse`, `Planes`, `Hash`, `Shift`, `Runs`, `Reshape`,
`Paths`), and any slot holds any node. Deep Compression (Han, Mao and Dally, ICLR 2016) is one composition:
``Sparse(Gaps(Entropy), Codebook(Entropy, Dense))``; product quantization (Stock et al., ICLR 2020) another:
``Codebook(Runs(Entropy), Dense)``; levels with a scale for each group of values a third:
``Reshape(Affine(Reshape(Entropy), Dense, Packed))``.

numpy has no bfloat16 and no 8-bit floats: such arrays are kept as their bit patterns (``uint16``, ``uint8``) and named
by the node's dtype.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt

from gossamer.errors import CodingError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
CoderName = Literal["ans", "range"]
ModelName = Literal["static", "adaptive", "mixed", "outlined", "blended"]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(storage)
    for name, storage in {
        "float32": "<f4",
        "float16": "<f2",
        "bfloat16": "<u2",
        "float64": "<f8",
        "bool": "?",
        "int8": "i1",
        "int16": "<i2",
        "int32": "<i4",
        "int64": "<i8",
        "uint8": "u1",
        "uint16": "<u2",
        "uint32": "<u4",
        "uint64": "<u8",
        "float8_e4m3fn": "u1",
        "float8_e5m2": "u1",
    }.items()
}
"""Name of every dtype a coding can have, and the numpy dtype that stores it; the order is the number in a file."""

FLOATS = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
INTEGERS = frozenset(name for name in DTYPES if name not in FLOATS and name != "bool")


@dataclass(frozen=True, eq=False)
class Dense:
    """The array itself, raw, little-endian, in C order.

    Args:
        array: any shape; of a dtype named in `DTYPES`.
        dtype: needed only where numpy has no such dtype (``bfloat16`` given as ``uint16`` bit patterns).
    """

    array: Array
    dtype: str = ""

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        name = self.dtype or array.dtype.name
        if name not in DTYPES:
            raise CodingError(f"Dense: dtype {name} is not one of {', '.join(DTYPES)}")
        if array.dtype.newbyteorder("<") != DTYPES[name]:
            raise CodingError(f"Dense: {name} is stored as {DTYPES[name].name}, got an array of {array.dtype.name}")
        stored = np.array(array, dtype=DTYPES[name], order="C", copy=None)
        object.__setattr__(self, "array", stored)
        object.__setattr__(self, "dtype", name)


@dataclass(frozen=True, eq=False)
class Packed:
    """Integers in fields of equal width: element = ``low`` + field, fields little-endian bit by bit.

    Args:
        data: ``ceil(size * bits / 8)`` bytes, ``uint8``.
        bits: width of a field, 0 to 32; with 0 every element is ``low``.
        low: the smallest element.
        shape: shape of the array.
        dtype: its dtype, an integer or bool.
    """

    data: Array
    bits: int
    low: int
    shape: Shape
    dtype: str

    def __post_init__(self) -> None:
        _want_whole("Packed", self.dtype)
        if not 0 <= self.bits <= 32:
            raise CodingError(f"Packed: bits must be 0 to 32, got {self.bits}")
        wanted = (prod(self.shape) * self.bits + 7) // 8
        if self.data.size != wanted:
            raise CodingError(f"Packed: {self.shape} of {self.bits} bits needs {wanted} bytes, got {self.data.size}")


@dataclass(frozen=True, eq=False)
class Entropy:
    """Integers written by an entropy coder (`gossamer.coders`): element = ``low`` + symbol.

    Args:
        data: the coder's bytes, side information of its model included, ``uint8``.
        shape: shape of the array.
        dtype: its dtype, an integer or bool.
        low: the smallest element.
        alphabet: symbols are ``0 .. alphabet - 1``.
        model: how probabilities are found.
        coder: how symbols become bits.
    """

    data: Array
    shape: Shape
    dtype: str
    low: int
    alphabet: int
    model: ModelName = "static"
    coder: CoderName = "ans"

    def __post_init__(self) -> None:
        _want_whole("Entropy", self.dtype)
        if self.alphabet < 1:
            raise CodingError(f"Entropy: alphabet must be at least 1, got {self.alphabet}")


@dataclass(frozen=True, eq=False)
class Bitmap:
    """Booleans, eight to a byte (the first is the lowest bit); the bytes are an array of their own.

    Args:
        bits: ``ceil(size / 8)`` bytes of dtype ``uint8``.
        shape: shape of the boolean array.
    """

    bits: "Coding"
    shape: Shape

    def __post_init__(self) -> None:
        _adopt(self, "bits")
        wanted = (prod(self.shape) + 7) // 8
        if dtype(self.bits) != "uint8" or shape(self.bits) != (wanted,):
            raise CodingError(f"Bitmap: {self.shape} needs uint8 ({wanted},), got {_say(self.bits)}")


@dataclass(frozen=True, eq=False)
class Gaps:
    """Booleans as the number of false elements before each true one, in C order (relative indexing).

    Args:
        gaps: one integer per true element, 1-d, none negative.
        shape: shape of the boolean array.
    """

    gaps: "Coding"
    shape: Shape

    def __post_init__(self) -> None:
        _adopt(self, "gaps")
        if dtype(self.gaps) not in INTEGERS or len(shape(self.gaps)) != 1 or size(self.gaps) > prod(self.shape):
            raise CodingError(f"Gaps: {self.shape} needs 1-d integers, at most its size, got {_say(self.gaps)}")


@dataclass(frozen=True, eq=False)
class Affine:
    """Uniform levels: ``(codes - zero) * scale`` in float32, then rounded to ``dtype``.

    Args:
        codes: integers, the shape of the array.
        scale: step size, float32: one number, or one per index of ``axis``.
        zero: the code of 0.0, shaped as ``scale``.
        axis: the dimension along which scale and zero vary; None where they are one number.
        dtype: a float dtype of at most 32 bits.
    """

    codes: "Coding"
    scale: "Coding"
    zero: "Coding"
    axis: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for slot in ("codes", "scale", "zero"):
            _adopt(self, slot)
        dims = shape(self.codes)
        if self.axis is not None and not 0 <= self.axis < len(dims):
            raise CodingError(f"Affine: axis {self.axis} is outside codes of {len(dims)} dimensions")
        wanted = () if self.axis is None else (dims[self.axis],)
        if self.dtype not in {"float32", "float16", "bfloat16"}:
            raise CodingError(f"Affine: dtype must be float32, float16 or bfloat16, got {self.dtype}")
        _want_whole("Affine codes", dtype(self.codes))
        if shape(self.scale) != wanted or dtype(self.scale) != "float32":
            raise CodingError(f"Affine: scale must be float32 {wanted}, got {_say(self.scale)}")
        if shape(self.zero) != wanted or dtype(self.zero) not in INTEGERS | {"float32"}:
            raise CodingError(f"Affine: zero must be numbers {wanted}, got {_say(self.zero)}")


@dataclass(frozen=True, eq=False)
class Codebook:
    """Shared values: ``centers[codes]``.

    Args:
        codes: integers, the shape of the array.
        centers: the shared values, 1-d; their dtype is the dtype of the array.
    """

    codes: "Coding"
    centers: "Coding"

    def __post_init__(self) -> None:
        _adopt(self, "codes")
        _adopt(self, "centers")
        _want_whole("Codebook codes", dtype(self.codes))
        if len(shape(self.centers)) != 1:
            raise CodingError(f"Codebook: centers must be 1-d, got {_say(self.centers)}")


@dataclass(frozen=True, eq=False)
class Sparse:
    """Zeros (all bits zero) outside a support, values inside it, in C order.

    Args:
        support: bool, the shape of the array.
        values: 1-d, one for each true element of the support.
    """

    support: "Coding"
    values: "Coding"

    def __post_init__(self) -> None:
        _adopt(self, "support")
        _adopt(self, "values")
        if dtype(self.support) != "bool":
            raise CodingError(f"Sparse: support must be bool, got {_say(self.support)}")
        if len(shape(self.values)) != 1 or size(self.values) > size(self.support):
            raise CodingError(f"Sparse: values must be 1-d, at most {size(self.support)}, got {_say(self.values)}")


@dataclass(frozen=True, eq=False)
class Planes:
    """The bytes of each element taken apart: plane ``k`` holds byte ``k`` (0 is the lowest) of every element.

    The highest byte of a float holds its sign and most of its exponent and is far from uniform.

    Args:
        planes: one ``uint8`` array per byte of the dtype, each of the array's shape.
        dtype: any dtype of more than one byte.
    """

    planes: tuple["Coding", ...]
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "planes", tuple(_as_node(plane) for plane in self.planes))
        wanted = DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 0
        if wanted < 2 or len(self.planes) != wanted:
            raise CodingError(f"Planes: {self.dtype} has {wanted} bytes, got {len(self.planes)} planes")
        if any(dtype(plane) != "uint8" or shape(plane) != shape(self.planes[0]) for plane in self.planes):
            raise CodingError("Planes: every plane must be uint8 and of one shape")


@dataclass(frozen=True, eq=False)
class Hash:
    """Hashed weights: each element is a bucket that the hash of its position names, perhaps with the other sign.

    `gossamer.codings.hashed` defines the hash. The positions cost nothing: buckets and seed are all there is.

    Args:
        buckets: the shared values, 1-d, floats; their dtype is the dtype of the array.
        seed: of the hash, 0 to 2^32 - 1.
        shape: shape of the array.
        support: bool, of that shape: where it is false the element is zero (all bits); None where there is no such.
    """

    buckets: "Coding"
    seed: int
    shape: Shape
    support: "Coding | None" = None

    def __post_init__(self) -> None:
        _adopt(self, "buckets")
        if self.support is not None:
            _adopt(self, "support")
        if dtype(self.buckets) not in FLOATS or len(shape(self.buckets)) != 1 or size(self.buckets) >= 1 << 32:
            raise CodingError(f"Hash: buckets must be 1-d floats, fewer than 2^32, got {_say(self.buckets)}")
        if size(self.buckets) == 0 and 0 not in self.shape:
            raise CodingError(f"Hash: {self.shape} needs at least one bucket, got none")
        if not 0 <= self.seed < 1 << 32:
            raise CodingError(f"Hash: seed must be 0 to 2^32 - 1, got {self.seed}")
        if self.support is not None and (dtype(self.support) != "bool" or shape(self.support) != self.shape):
            raise CodingError(f"Hash: support must be bool {self.shape}, got {_say(self.support)}")


@dataclass(frozen=True, eq=False)
class Shift:
    """Integers that each row (index of the first dimension) counts from a start of its own: ``values + starts[row]``.

    Codes of rows with codebooks of their own are small numbers again, alike in every row.

    Args:
        values: integers of at most 32 bits, the shape of the array, of at least one dimension.
        starts: integers of at most 32 bits, one per row; their dtype is the dtype of the array.
    """

    values: "Coding"
    starts: "Coding"

    def __post_init__(self) -> None:
        for slot in ("values", "starts"):
            _adopt(self, slot)
            name = dtype(getattr(self, slot))
            if name not in INTEGERS or DTYPES[name].itemsize > 4:
                raise CodingError(f"Shift {slot}: dtype must be an integer of at most 32 bits, got {name}")
        rows = shape(self.values)[:1]
        if not rows or shape(self.starts) != rows:
            raise CodingError(f"Shift: wanted a start for each of {rows} rows, got {_say(self.starts)}")


@dataclass(frozen=True, eq=False)
class Runs:
    """Integers in runs: each number w of ``words`` stands for the ``width`` elements from ``w * width`` on.

    As codes of a codebook they make its centers codewords of ``width`` values, one number for each subvector.

    Args:
        words: integers, none negative, (rows, runs of a row).
        width: elements of a run, at least 1.
        shape: shape of the array, of at least two dimensions; rows are the indices of the first, and runs follow each
            other through the others in C order.
    """

    words: "Coding"
    width: int
    shape: Shape

    def __post_init__(self) -> None:
        _adopt(self, "words")
        if dtype(self.words) not in INTEGERS:
            raise CodingError(f"Runs: words must be integers, got {_say(self.words)}")
        wanted = runs_shape(self.shape, self.width)
        if shape(self.words) != wanted:
            raise CodingError(f"Runs: {self.shape} in runs of {self.width} needs {wanted}, got {_say(self.words)}")


@dataclass(frozen=True, eq=False)
class Paths:
    """Integers that indices stand for, each on one of two grids that the parities before it in its row choose.

    `gossamer.codings.paths` defines the trellis; rows are the indices of the first dimension.

    Args:
        indices: integers, the shape of the array, of at least two dimensions.
    """

    indices: "Coding"

    def __post_init__(self) -> None:
        _adopt(self, "indices")
        if dtype(self.indices) not in INTEGERS or len(shape(self.indices)) < 2:
            raise CodingError(f"Paths: indices must be integers of two dimensions or more, got {_say(self.indices)}")


@dataclass(frozen=True, eq=False)
class Reshape:
    """The same elements in C order, in another shape.

    Args:
        values: any array of as many elements.
        shape: shape of the array.
    """

    values: "Coding"
    shape: Shape

    def __post_init__(self) -> None:
        _adopt(self, "values")
        if size(self.values) != prod(self.shape):
            raise CodingError(f"Reshape: {self.shape} is not of as many elements as {shape(self.values)}")


def runs_shape(shape: Shape, width: int) -> Shape:
    """Return rows and runs of a row of an array of ``shape`` in runs of ``width``.

    Raises:
        CodingError: its rows are not whole runs.
    """
    row = prod(shape[1:])
    if len(shape) < 2 or not 1 <= width <= max(row, 1) or row % width:
        raise CodingError(f"Runs: an array of {shape} is not rows of whole runs of {width}")
    return shape[0], row // width


Coding = (
    Dense
    | Packed
    | Entropy
    | Bitmap
    | Gaps
    | Affine
    | Codebook
    | Sparse
    | Planes
    | Hash
    | Shift
    | Runs
    | Reshape
    | Paths
)


def shape(node: Coding) -> Shape:  # noqa: PLR0911 one return per node
    """Return the shape of the array that ``node`` decodes to."""
    match node:
        case Dense():
            return node.array.shape
        case Packed() | Entropy() | Bitmap() | Gaps() | Hash() | Runs() | Reshape():
            return node.shape
        case Affine() | Codebook():
            return shape(node.codes)
        case Sparse():
            return shape(node.support)
        case Planes():
            return shape(node.planes[0])
        case Shift():
            return shape(node.values)
        case Paths():
            return shape(node.indices)
        case _:
            assert_never(node)


def dtype(node: Coding) -> str:  # noqa: PLR0911 one return per node
    """Return the dtype of the array that ``node`` decodes to, a name of `DTYPES`."""
    match node:
        case Dense() | Packed() | Entropy() | Affine() | Planes():
            return node.dtype
        case Bitmap() | Gaps():
            return "bool"
        case Codebook():
            return dtype(node.centers)
        case Sparse():
            return dtype(node.values)
        case Hash():
            return dtype(node.buckets)
        case Shift():
            return dtype(node.starts)
        case Reshape():
            return dtype(node.values)
        case Runs():
            return "uint32"
        case Paths():
            return "int32"
        case _:
            assert_never(node)


def size(node: Coding) -> int:
    """Return the number of elements of the array that ``node`` decodes to."""
    return prod(shape(node))


def _as_node(value: "Coding | Array") -> Coding:
    return Dense(value) if isinstance(value, np.ndarray | np.generic) else value


def _adopt(node: Coding, slot: str) -> None:
    """Let a slot be given as a plain array."""
    object.__setattr__(node, slot, _as_node(getattr(node, slot)))


def _say(node: Coding) -> str:
    return f"{dtype(node)} {shape(node)}"


def _want_whole(what: str, name: str) -> None:
    if name not in INTEGERS and name != "bool":
        raise CodingError(f"{what}: dtype must be an integer or bool, got {name}")
