"""The container: an artifact to the bytes of a ``.goss`` file and back (`SPEC.md`)."""

import lzma
import zlib
from collections.abc import Mapping
from math import prod
from struct import Struct
from typing import Any

import msgspec
import numpy as np

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.books import Books
from gossamer.artifact.header import BlobRecord, GraphRecord, Header, TensorRecord, record
from gossamer.artifact.layout import COST_PER_BYTE, FREE_COST, Payload, bound, check_tree, tree_cost
from gossamer.artifact.records import check_records
from gossamer.codings import Coding, dense_nbytes, leaves, shape
from gossamer.errors import ArtifactError

MAGIC = b"GOSS"
VERSION = 1
PREFIX = Struct("<4sBBII")  # magic, version, flags, header bytes as stored, CRC-32
DEFLATED = 1  # flag: the header is stored deflated
MAX_HEADER, FREE_HEADER, HEADER_PER_BYTE = 1 << 26, 1 << 16, 32
BLOB_BYTES = 1 << 16  # a blob is closed by the tensor that makes it this long
MAX_DATA_DEPTH, MAX_ELEMENTS = 16, 1 << 40


def dumps(artifact: Artifact) -> bytes:
    """Return the bytes of the file.

    Raises:
        ArtifactError: a part is not plain data, a name is used twice, or a tree is nested too deep.
    """
    return b"".join(parts(artifact))


def parts(artifact: Artifact) -> list[bytes]:
    """Return the file in pieces, to be written one after the other without joining them in memory."""
    _check_names(artifact.tensors, artifact.aliases)
    for what in ("edits", "activations", "meta"):
        _check_plain(getattr(artifact, what), what, MAX_DATA_DEPTH)
    check_records(artifact.edits, artifact.activations, artifact.meta)
    for name, node in artifact.tensors.items():
        check_tree(node, f"tensor {name}")
    tensors, blobs, payload = _tensors(artifact.tensors)
    graph, stored = _pack_graph(artifact.graph)
    payload.append(stored)
    length = sum(map(len, payload))
    cost = sum(map(tree_cost, artifact.tensors.values())) + 2 * len(artifact.graph or b"")
    padding = max(0, -(-(cost - FREE_COST) // COST_PER_BYTE) - length)
    header = Header(
        tensors,
        blobs,
        dict(artifact.aliases),
        [dict(edit) for edit in artifact.edits],
        {site: dict(grid) for site, grid in artifact.activations.items()},
        dict(artifact.meta),
        graph,
        padding,
    )
    raw = msgspec.msgpack.encode(header)
    small = _deflate(raw)
    fits = len(raw) <= FREE_HEADER + HEADER_PER_BYTE * (len(small) + length)
    flags, written = (DEFLATED, small) if fits and len(small) < len(raw) else (0, raw)
    return [_prefix(flags, written), written, *payload, bytes(padding)]


def loads(data: bytes, *, max_bytes: int = 1 << 34) -> Artifact:
    """Return the artifact in ``data``; its trees refer to ``data`` without copying.

    Args:
        data: the whole file.
        max_bytes: refuse files whose tensors decode to more than this.

    Raises:
        ArtifactError: the file is damaged, malformed or passes a bound.
    """
    header, start = read_header(data)
    payload = Payload(np.frombuffer(data, np.uint8)[start:], bound(len(data)))
    names = [entry.name for entry in header.tensors]
    if len(set(names)) != len(names):
        raise ArtifactError("a tensor's name is used twice", "header")
    _check_names(dict.fromkeys(names), header.aliases)
    for what in ("edits", "activations", "meta"):
        _check_plain(getattr(header, what), what, MAX_DATA_DEPTH)
    check_records(header.edits, header.activations, header.meta)
    tensors = _read_tensors(header, payload, data, start)
    dense = sum(map(dense_nbytes, tensors.values()))
    if dense > max_bytes:
        raise ArtifactError(f"decodes to {dense} bytes, more than the {max_bytes} allowed", "tensors")
    graph = _read_graph(header.graph, payload)
    padding = payload.take(header.padding, "padding")
    if padding.any():
        raise ArtifactError("a byte of the padding is not zero", "padding")
    if start + payload.taken != len(data):
        raise ArtifactError(f"the file goes on for {len(data) - start - payload.taken} bytes", "end")
    return Artifact(tensors, header.aliases, tuple(header.edits), header.activations, graph, header.meta)


def read_header(data: bytes) -> tuple[Header, int]:
    """Return the header and the position of the first payload byte.

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
    longest = min(MAX_HEADER, FREE_HEADER + HEADER_PER_BYTE * len(data))
    raw = _inflate(stored, longest, "header") if flags & DEFLATED else stored
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


def _tensors(tensors: Mapping[str, Coding]) -> tuple[list[TensorRecord], list[BlobRecord], list[bytes]]:
    """Group neighbouring tensors into blobs, so that a bias does not pay for a checksum of its own."""
    records, blobs, payload, books = [], [], [], Books()
    count = length = crc = 0
    for index, (name, node) in enumerate(tensors.items()):
        records.append(TensorRecord(name, list(shape(node)), record(node, books.known)))
        for leaf in leaves(node, books.known):
            raw = (leaf.array if hasattr(leaf, "array") else leaf.data).tobytes()
            payload.append(raw)
            crc = checksum(raw, crc)
            length += len(raw)
        books.close(node)
        count += 1
        if length >= BLOB_BYTES or index == len(tensors) - 1:
            blobs.append(BlobRecord(count, crc))
            count = length = crc = 0
    return records, blobs, payload


def _read_tensors(header: Header, payload: Payload, data: bytes, start: int) -> dict[str, Coding]:
    if sum(blob.tensors for blob in header.blobs) != len(header.tensors):
        raise ArtifactError("the blobs do not hold every tensor exactly once", "header")
    tensors: dict[str, Coding] = {}
    entries = iter(header.tensors)
    view = memoryview(data)
    for index, blob in enumerate(header.blobs):
        begin = start + payload.taken
        for _ in range(blob.tensors):
            entry = next(entries)
            if prod(max(length, 1) for length in entry.shape) > MAX_ELEMENTS:
                raise ArtifactError(f"shape {entry.shape} is beyond {MAX_ELEMENTS} elements", f"tensor {entry.name}")
            tensors[entry.name] = payload.tree(entry.coding, tuple(entry.shape), f"tensor {entry.name}")
        if checksum(view[begin : start + payload.taken]) != blob.crc:
            raise ArtifactError("the checksum does not match", f"blob {index}")
    return tensors


def _pack_graph(graph: bytes | None) -> tuple[GraphRecord | None, bytes]:
    if graph is None:
        return None, b""
    forms = [graph, _deflate(graph), lzma.compress(graph, lzma.FORMAT_RAW, filters=_lzma_filters(len(graph)))]
    codec = min(range(3), key=lambda index: len(forms[index]))
    stored = forms[codec]
    return GraphRecord(codec, len(stored), len(graph), checksum(stored)), stored


def _read_graph(entry: GraphRecord | None, payload: Payload) -> bytes | None:
    if entry is None:
        return None
    payload.charge(2 * entry.length, "graph")
    stored = payload.take(entry.stored, "graph").tobytes()
    if checksum(stored) != entry.crc:
        raise ArtifactError("the checksum does not match", "graph")
    match entry.codec:
        case 0:
            graph = stored
        case 1:
            graph = _inflate(stored, entry.length, "graph")
        case _:
            graph = _unlzma(stored, entry.length)
    if len(graph) != entry.length:
        raise ArtifactError(f"wanted {entry.length} bytes, got {len(graph)}", "graph")
    return graph


def _deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(raw) + packer.flush()


def _inflate(stored: bytes, most: int, where: str) -> bytes:
    unpacker = zlib.decompressobj(-15)
    try:
        raw = unpacker.decompress(stored, most + 1)
    except zlib.error as error:
        raise ArtifactError(f"malformed deflate data: {error}", where) from None
    if len(raw) > most or not unpacker.eof or unpacker.unused_data:
        raise ArtifactError(f"deflate data does not end where it should, within {most} bytes", where)
    return raw


def _lzma_filters(length: int) -> list[dict[str, int]]:
    """Return the settings of the LZMA stream: the dictionary is the power of two that holds the graph, from 4 KiB."""
    dictionary = max(1 << 12, 1 << max(length - 1, 0).bit_length())
    return [{"id": lzma.FILTER_LZMA1, "dict_size": min(dictionary, 1 << 26), "lc": 3, "lp": 0, "pb": 2}]


def _unlzma(stored: bytes, length: int) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_lzma_filters(length))
    try:
        raw = unpacker.decompress(stored, length + 1)
    except lzma.LZMAError as error:
        raise ArtifactError(f"malformed LZMA data: {error}", "graph") from None
    if len(raw) > length or not unpacker.eof or unpacker.unused_data:
        raise ArtifactError(f"LZMA data does not end where it should, within {length} bytes", "graph")
    return raw


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
