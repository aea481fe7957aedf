"""The container: an artifact to the bytes of a ``.goss`` file and back (`SPEC.md`)."""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from struct import Struct
from typing import Any

import msgspec
import numpy as np

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.books import Books
from gossamer.artifact.header import BlobRecord, Header, TensorRecord, record
from gossamer.artifact.layout import COST_PER_BYTE, FREE_COST, MAX_ELEMENTS, Payload, bound, check_tree, tree_cost
from gossamer.artifact.records import check_records
from gossamer.artifact.squeeze import deflate, inflate, pack_graph, read_graph
from gossamer.codings import Coding, Dense, dense_nbytes, leaves, shape
from gossamer.codings.nodes import Array
from gossamer.errors import ArtifactError

MAGIC = b"GOSS"
VERSION = 1
PREFIX = Struct("<4sBBII")  # magic, version, flags, header bytes as stored, CRC-32
DEFLATED = 1  # flag: the header is stored deflated
MAX_HEADER, FREE_HEADER, HEADER_PER_BYTE = 1 << 26, 1 << 16, 32
BLOB_BYTES = 1 << 16  # a blob is closed by the tensor that makes it this long
MAX_DATA_DEPTH = 16


def dumps(artifact: Artifact) -> bytes:
    """Return the bytes of the file.

    Raises:
        ArtifactError: a part is not plain data, a name is used twice, or a tree is nested too deep.
    """
    return b"".join(parts(artifact))


def parts(artifact: Artifact) -> list[bytes | memoryview]:
    """Return the file in pieces, to be written one after the other without joining them in memory."""
    payload: list[bytes | memoryview] = []
    writer = Writer(payload.append)
    for name, node in artifact.tensors.items():
        writer.add(name, node)
    head, tail = writer.seal(artifact)
    return [head, *payload, tail]


class Writer:
    """Takes tensors one at a time: their bytes go on at once, and what the header says of them is kept.

    Neighbouring tensors share a blob, so that a bias does not pay for a checksum of its own.

    Args:
        put: takes the next bytes of the payload.
    """

    def __init__(self, put: Callable[[memoryview], object]) -> None:
        self._put = put
        self._tensors: dict[str, TensorRecord] = {}
        self._blobs: list[BlobRecord] = []
        self._books = Books()
        self._count = self._begun = self._crc = self._length = self._cost = 0

    def add(self, name: str, node: Coding) -> int:
        """Put the next tensor and return the bytes of its payload.

        Raises:
            ArtifactError: the name is used already, or no reader would accept the tree.
        """
        if name in self._tensors:
            raise ArtifactError("a tensor's name is used twice", f"tensor {name}")
        check_tree(node, f"tensor {name}")
        before = self._length
        for leaf in leaves(node, self._books.known):
            raw = _raw(leaf.array if isinstance(leaf, Dense) else leaf.data)
            self._put(raw)
            self._crc = checksum(raw, self._crc)
            self._length += len(raw)
        self._tensors[name] = TensorRecord(name, list(shape(node)), record(node, self._books.known))
        self._books.close(node)
        self._cost += tree_cost(node)
        self._count += 1
        if self._length - self._begun >= BLOB_BYTES:
            self._close()
        return self._length - before

    def seal(self, rest: Artifact) -> tuple[bytes, bytes]:
        """Return what stands before the payload in the file and what stands after it.

        Args:
            rest: everything but the tensors, which are those that were added.

        Raises:
            ArtifactError: a part is not plain data, or an alias is not a new name of a stored tensor.
        """
        _check_names(self._tensors, rest.aliases)
        for what in ("edits", "activations", "meta"):
            _check_plain(getattr(rest, what), what, MAX_DATA_DEPTH)
        check_records(rest.edits, rest.activations, rest.meta, rest.aliases)
        if self._count:
            self._close()
        graph, stored = pack_graph(rest.graph)
        length = self._length + len(stored)
        cost = self._cost + 2 * len(rest.graph or b"")
        padding = max(0, -(-(cost - FREE_COST) // COST_PER_BYTE) - length)
        header = Header(
            list(self._tensors.values()),
            self._blobs,
            dict(rest.aliases),
            [dict(edit) for edit in rest.edits],
            {site: dict(grid) for site, grid in rest.activations.items()},
            dict(rest.meta),
            graph,
            padding,
        )
        raw = msgspec.msgpack.encode(header)
        small = deflate(raw)
        fits = len(raw) <= FREE_HEADER + HEADER_PER_BYTE * (len(small) + length)
        flags, written = (DEFLATED, small) if fits and len(small) < len(raw) else (0, raw)
        return _prefix(flags, written) + written, stored + bytes(padding)

    def _close(self) -> None:
        self._blobs.append(BlobRecord(self._count, self._crc))
        self._begun = self._length
        self._count = self._crc = 0


def loads(data: bytes, *, max_bytes: int = 1 << 34) -> Artifact:
    """Return the artifact in ``data``; its trees refer to ``data`` without copying.

    Args:
        data: the whole file.
        max_bytes: refuse files whose tensors decode to more than this.

    Raises:
        ArtifactError: the file is damaged, malformed or passes a bound.
    """
    header, start = read_header(data)
    view, taken = np.frombuffer(data, np.uint8), start

    def take(length: int) -> Array:
        nonlocal taken
        taken += length
        return view[taken - length : taken]

    reader = Reader(header, Payload(take, len(data) - start, bound(len(data))), max_bytes)
    tensors = dict(reader.tensors())
    return replace(reader.rest(), tensors=tensors)


class Reader:
    """Gives the tensors of a file one after the other, from its front to its end; memory holds one blob of them.

    Args:
        header: of the file.
        payload: what follows the header.
        max_bytes: refuse a file whose tensors decode to more than this.

    Raises:
        ArtifactError: the header is malformed.
    """

    def __init__(self, header: Header, payload: Payload, max_bytes: int) -> None:
        self.header, self._payload, self._max_bytes = header, payload, max_bytes
        names = [entry.name for entry in header.tensors]
        if len(set(names)) != len(names):
            raise ArtifactError("a tensor's name is used twice", "header")
        _check_names(dict.fromkeys(names), header.aliases)
        for what in ("edits", "activations", "meta"):
            _check_plain(getattr(header, what), what, MAX_DATA_DEPTH)
        check_records(header.edits, header.activations, header.meta, header.aliases)
        if sum(blob.tensors for blob in header.blobs) != len(header.tensors):
            raise ArtifactError("the blobs do not hold every tensor exactly once", "header")

    def tensors(self) -> Iterator[tuple[str, Coding]]:
        """Yield every tensor; its blob's checksum was compared, nothing is decoded yet.

        Raises:
            ArtifactError: the payload is damaged or passes a bound.
        """
        entries = iter(self.header.tensors)
        dense = 0
        for index, blob in enumerate(self.header.blobs):
            self._payload.crc = 0
            held = deque(self._tensor(next(entries)) for _ in range(blob.tensors))
            if self._payload.crc != blob.crc:
                raise ArtifactError("the checksum does not match", f"blob {index}")
            dense += sum(dense_nbytes(node) for _, node in held)
            if dense > self._max_bytes:
                raise ArtifactError(f"decodes to {dense} bytes, more than the {self._max_bytes} allowed", "tensors")
            while held:
                yield held.popleft()

    def rest(self) -> Artifact:
        """Return everything but the tensors, once they are read; the file ends where it should.

        Raises:
            ArtifactError: it does not, or the graph is damaged.
        """
        graph = read_graph(self.header.graph, self._payload)
        if self._payload.take(self.header.padding, "padding").any():
            raise ArtifactError("a byte of the padding is not zero", "padding")
        if self._payload.left:
            raise ArtifactError(f"the file goes on for {self._payload.left} bytes", "end")
        header = self.header
        return Artifact({}, header.aliases, tuple(header.edits), header.activations, graph, header.meta)

    def _tensor(self, entry: TensorRecord) -> tuple[str, Coding]:
        where = f"tensor {entry.name}"
        if prod(max(length, 1) for length in entry.shape) > MAX_ELEMENTS:
            raise ArtifactError(f"shape {entry.shape} is beyond {MAX_ELEMENTS} elements", where)
        return entry.name, self._payload.tree(entry.coding, tuple(entry.shape), where)


def read_header(data: bytes, size: int | None = None) -> tuple[Header, int]:
    """Return the header and the position of the first payload byte.

    Args:
        data: the file, or its beginning with the whole header.
        size: of the file, where ``data`` is only its beginning.

    Raises:
        ArtifactError: the header is damaged or malformed.
    """
    if len(data) < PREFIX.size:
        raise ArtifactError(f"a file has at least {PREFIX.size} bytes, got {len(data)}", "start")
    magic, version, flags, length, crc = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ArtifactError(f"not a gossamer file: wanted {MAGIC!r}, got {magic!r}", "byte 0")
    if version != VERSION:
        raise ArtifactError(f"format version {version} is unknown; this reader knows {VERSION}", "byte 4")
    if flags & ~DEFLATED:
        raise ArtifactError(f"unknown flags {flags}", "byte 5")
    stored = data[PREFIX.size : PREFIX.size + length]
    if len(stored) != length:
        raise ArtifactError(f"the header has {length} bytes but the file ends after {len(stored)}", "header")
    if checksum(stored, checksum(data[: PREFIX.size - 4])) != crc:
        raise ArtifactError("the checksum does not match", "header")
    longest = min(MAX_HEADER, FREE_HEADER + HEADER_PER_BYTE * (len(data) if size is None else size))
    raw = inflate(stored, longest, "header") if flags & DEFLATED else stored
    if len(raw) > longest:
        raise ArtifactError(f"has more than {longest} bytes", "header")
    try:
        return msgspec.msgpack.decode(raw, type=Header), PREFIX.size + length
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactError(f"malformed: {error}", "header") from None


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """Return the CRC-32 of ``data`` after bytes with checksum ``start``."""
    return zlib.crc32(data, start)


def _prefix(flags: int, header: bytes) -> bytes:
    if len(header) > MAX_HEADER:
        raise ArtifactError(f"a header has at most {MAX_HEADER} bytes, this one {len(header)}", "header")
    start = PREFIX.pack(MAGIC, VERSION, flags, len(header), 0)[:-4]
    return start + checksum(header, checksum(start)).to_bytes(4, "little")


def _raw(array: Array) -> memoryview:
    """Return the bytes of ``array`` in C order, without copying them."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _check_names(tensors: Mapping[str, object], aliases: Mapping[str, str]) -> None:
    for alias, name in aliases.items():
        if alias in tensors or name not in tensors:
            raise ArtifactError(f"alias {alias} must be a new name of a stored tensor, got {name}", "aliases")


def _check_plain(value: Any, where: str, depth: int) -> None:
    """Refuse anything but None, bool, int, float, str, list and dict with str keys."""
    if depth == 0:
        raise ArtifactError(f"plain data is nested more than {MAX_DATA_DEPTH} deep", where)
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ArtifactError(f"a key must be a string, got {key!r}", where)
            _check_plain(item, f"{where}.{key}", depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, where, depth - 1)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ArtifactError(f"a whole number must fit 64 bits, got {value}", where)
    elif not isinstance(value, None | bool | int | float | str):
        raise ArtifactError(f"only plain data can be stored, got {type(value).__name__}", where)
