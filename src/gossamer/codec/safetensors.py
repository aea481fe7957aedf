"""The safetensors format, read and written a tensor at a time, without torch.

A file is the length of its header (64 bits, little-endian), the header as JSON, and the tensors' bytes one after the
other without gaps: https://github.com/huggingface/safetensors#format.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import prod
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from msgspec import Meta

from gossamer.artifact.layout import MAX_DIMENSIONS, MAX_ELEMENTS
from gossamer.codec.source import Entry
from gossamer.codings import DTYPES, Dense
from gossamer.errors import StateError

NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Names of dtypes in a file, and here."""

_WRITTEN = {ours: theirs for theirs, ours in NAMES.items()}
_LENGTH = Struct("<Q")
_MAX_HEADER = 100_000_000  # that of the library
_METADATA = "__metadata__"
_KNOWN = {
    b"PK\x03\x04": "it is a zip archive, as torch.save writes: name it .pt",
    b"\x80": "it begins like a pickle: load it where you trust it, and save its state dict as safetensors",
    b"version https://git-lfs": "it is a pointer of Git LFS: `git lfs pull` brings the file itself",
    b"GOSS": "it is an artifact: gossamer unpack turns it into safetensors",
    b"<": "it begins like a web page: was the download refused?",
}
Size = Annotated[int, Meta(ge=0, le=1 << 48)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[Size, ...]
    data_offsets: tuple[Size, Size]


class SafetensorsFile(AbstractContextManager["SafetensorsFile"]):
    """An open file whose tensors are read singly; see `Source`.

    Raises:
        StateError: the file is missing, is no sound safetensors file, or holds a dtype that cannot be stored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise StateError(f"{path}: cannot be read: {error.strerror or error}") from error
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, entry: Entry) -> Dense:
        """Return one tensor.

        Raises:
            StateError: the disk refuses, the file changed, or a boolean is neither 0 nor 1.
        """
        raw = np.empty(entry.nbytes, np.uint8)
        try:
            self._file.seek(self._starts[entry.name])
            got = self._file.readinto(raw.data)
        except OSError as error:
            raise StateError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        if got != raw.size:
            raise self._wrong(f"tensor {entry.name} is cut off: the file changed while it was read")
        if entry.dtype == "bool" and raw.size and int(raw.max()) > 1:
            raise self._wrong(f"tensor {entry.name} holds a boolean that is neither 0 nor 1")
        return Dense(raw.view(DTYPES[entry.dtype]).reshape(entry.shape), entry.dtype)

    def _open(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
        if length < 2 or length > min(_MAX_HEADER, size - _LENGTH.size):
            raise self._foreign(start, size)
        begin = _LENGTH.size + length
        try:
            header = json.loads(self._file.read(length), object_pairs_hook=_distinct)
            records = {name: _record(name, value) for name, value in header.items() if name != _METADATA}
            self.metadata: Mapping[str, str] = msgspec.convert(header.get(_METADATA) or {}, dict[str, str])
        except (ValueError, AttributeError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise self._wrong(f"its header is malformed: {error}") from error
        ordered = sorted(records.items(), key=lambda item: item[1].data_offsets)
        self._check([(name, record) for name, record in ordered], size - begin)
        self.entries: Sequence[Entry] = [Entry(name, NAMES[one.dtype], one.shape) for name, one in ordered]
        self._starts = {name: begin + record.data_offsets[0] for name, record in ordered}
        # safetensors.torch.save_model leaves tied names out and says in the metadata where they are.
        pairs = self.metadata.items()
        self.aliases: Mapping[str, str] = {k: v for k, v in pairs if k not in records and v in records}

    def _check(self, records: Sequence[tuple[str, _Record]], size: int) -> None:
        """Refuse tensors that overlap, leave gaps, or are not as long as their shapes say."""
        place = 0
        for name, record in records:
            if record.dtype not in NAMES:
                raise StateError(
                    f"{self._path}: tensor {name} has dtype {record.dtype}, which cannot be stored",
                    hint=f"there is {', '.join(NAMES)}",
                )
            first, last = record.data_offsets
            wanted = prod(record.shape) * DTYPES[NAMES[record.dtype]].itemsize
            if first != place or last - first != wanted:
                told = f"tensor {name}: wanted bytes {place} to {place + wanted}, got {first} to {last}"
                raise self._wrong(told)
            place = last
        if place > size:
            raise StateError(
                f"{self._path}: is cut off: it speaks of {place} bytes of tensors, {size} are there",
                hint="was it downloaded or copied to its end?",
            )
        if place < size:
            raise self._wrong(f"it goes on for {size - place} bytes after its last tensor")

    def _foreign(self, start: bytes, size: int) -> StateError:
        self._file.seek(0)
        begins = self._file.read(32)
        hint = next((told for magic, told in _KNOWN.items() if begins.startswith(magic)), None)
        if size == 0:
            return self._wrong("it is empty")
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else None
        told = f"a header of {length} bytes" if length is not None else f"{size} bytes"
        return self._wrong(f"it has {told} in {size} bytes" if length is not None else f"it has {told}", hint)

    def _wrong(self, what: str, hint: str | None = None) -> StateError:
        return StateError(f"{self._path}: not a sound safetensors file: {what}", hint=hint)


def head(entries: Sequence[Entry], metadata: Mapping[str, str]) -> tuple[bytes, list[int]]:
    """Return the beginning of a file and where each entry's bytes go; spelled as the library spells it.

    Args:
        entries: in the order in which their bytes follow each other.
        metadata: texts to carry along.

    Raises:
        StateError: a tensor has the name under which the format keeps its metadata.
    """
    if any(entry.name == _METADATA for entry in entries):
        raise StateError(f"no tensor of a safetensors file can be named {_METADATA}")
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    starts, place = [], 0
    for entry in entries:
        starts.append(place)
        offsets = [place, place + entry.nbytes]
        header[entry.name] = {"dtype": _WRITTEN[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        place += entry.nbytes
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    begin = _LENGTH.size + len(raw)
    return _LENGTH.pack(len(raw)) + raw, [begin + start for start in starts]


def _record(name: str, value: Any) -> _Record:
    try:
        record = msgspec.convert(value, _Record)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from error
    if len(record.shape) > MAX_DIMENSIONS or prod(max(length, 1) for length in record.shape) > MAX_ELEMENTS:
        raise ValueError(f"{name}: a shape has at most {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS} elements")
    return record


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is used twice")
    return found
