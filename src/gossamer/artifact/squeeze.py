"""Squeezing: deflate and LZMA within bounds, for the header and the graph (`SPEC.md` 3.1 and 3.4)."""

import lzma
import zlib

from gossamer.artifact.header import GraphRecord
from gossamer.artifact.layout import Payload
from gossamer.errors import ArtifactError


def pack_graph(graph: bytes | None) -> tuple[GraphRecord | None, bytes]:
    """Return the record of ``graph`` and its stored bytes, by the codec that makes the fewest."""
    if graph is None:
        return None, b""
    every = [graph, deflate(graph), lzma.compress(graph, lzma.FORMAT_RAW, filters=_lzma_filters(len(graph)))]
    codec = min(range(3), key=lambda index: len(every[index]))
    stored = every[codec]
    return GraphRecord(codec, len(stored), len(graph), zlib.crc32(stored)), stored


def read_graph(entry: GraphRecord | None, payload: Payload) -> bytes | None:
    """Take the graph off the payload.

    Raises:
        ArtifactError: it is damaged, or longer than its record says.
    """
    if entry is None:
        return None
    payload.charge(2 * entry.length, "graph")
    stored = payload.take(entry.stored, "graph").tobytes()
    if zlib.crc32(stored) != entry.crc:
        raise ArtifactError("the checksum does not match", "graph")
    match entry.codec:
        case 0:
            graph = stored
        case 1:
            graph = inflate(stored, entry.length, "graph")
        case _:
            graph = _unlzma(stored, entry.length)
    if len(graph) != entry.length:
        raise ArtifactError(f"wanted {entry.length} bytes, got {len(graph)}", "graph")
    return graph


def deflate(raw: bytes) -> bytes:
    """Return ``raw`` as one raw deflate stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(raw) + packer.flush()


def inflate(stored: bytes, most: int, where: str) -> bytes:
    """Return what `deflate` was given, if it has at most ``most`` bytes.

    Raises:
        ArtifactError: it has more, or ``stored`` is malformed.
    """
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
