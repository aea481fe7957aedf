"""Unpack: a ``.goss`` file to a state dict in a ``.safetensors`` file; memory holds one tensor at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.progress import Progress

from gossamer.artifact.container import Reader
from gossamer.artifact.files import placed
from gossamer.artifact.header import Header, dtype_of
from gossamer.artifact.stream import opened
from gossamer.codec.safetensors import head
from gossamer.codec.source import Entry
from gossamer.codings import Coding
from gossamer.codings.decode import view
from gossamer.errors import ArtifactError, CodingError, StateError


class Unpacked(msgspec.Struct, frozen=True):
    """A file that was unpacked: its bytes, its tensors, and the names that are the same tensor as another.

    ``edits`` counts the changes of structure in the artifact: with any, the state dict is that of the smaller model.
    """

    path: str
    bytes: int
    tensors: int
    aliases: Mapping[str, str]
    edits: int


def unpack(
    path: str | Path, output: str | Path, *, max_bytes: int = 1 << 40, progress: Progress | None = None
) -> Unpacked:
    """Write the tensors of a ``.goss`` file as safetensors, each under all its names.

    What `pack` made without loss of a file that the safetensors library wrote becomes that file again, byte for byte:
    names that it left out as tied are left out, and its metadata are kept.

    Args:
        path: the artifact.
        output: the file to write; it appears complete or not at all.
        max_bytes: refuse an artifact whose tensors, each as often as it has names, come to more than this.
        progress: bars to add one of tensors to.

    Raises:
        ArtifactError: the artifact cannot be read or is not sound.
        StateError: the file cannot be written.
    """
    output = Path(output)
    try:
        with opened(path, max_bytes=max_bytes) as reader:
            return _write(reader, output, max_bytes, progress)
    except OSError as error:
        raise StateError(f"{output}: cannot be written: {error.strerror or error}") from error


def _write(reader: Reader, output: Path, max_bytes: int, progress: Progress | None) -> Unpacked:
    header = reader.header
    entries = _entries(header)
    start, places = head(entries, header.meta.get("safetensors", {}))
    size = places[-1] + entries[-1].nbytes if entries else len(start)
    if size > max_bytes:
        raise ArtifactError(f"unpacks to {size} bytes, more than the {max_bytes} allowed", "tensors")
    where: dict[str, list[int]] = {}
    for entry, place in zip(entries, places, strict=True):
        where.setdefault(header.aliases.get(entry.name, entry.name), []).append(place)
    bar = None if progress is None else progress.add_task("unpacking", total=len(header.tensors))
    output.parent.mkdir(parents=True, exist_ok=True)
    with placed(output) as file:
        file.write(start)
        for name, node in reader.tensors():
            raw = _bytes(name, node)
            del node
            for place in where[name]:
                file.seek(place)
                file.write(raw)
            del raw
            if progress is not None and bar is not None:
                progress.advance(bar)
        reader.rest()
    return Unpacked(str(output), size, len(entries), header.aliases, len(header.edits))


def _bytes(name: str, node: Coding) -> memoryview:
    try:
        return np.ascontiguousarray(view(node)).reshape(-1).view(np.uint8).data
    except CodingError as error:
        raise ArtifactError(error.message, f"tensor {name}") from error


def _entries(header: Header) -> Sequence[Entry]:
    """Return what is written, in order: copies where they were, aliases last unless the metadata tell of them."""
    stored = {one.name: Entry(one.name, dtype_of(one.coding), tuple(one.shape)) for one in header.tensors}
    entries = list(stored.values())
    copies = header.meta.get("copies", {})
    for name, place in sorted(copies.items(), key=lambda item: item[1]):
        entries.insert(place, stored[header.aliases[name]]._replace(name=name))
    told = header.meta.get("safetensors", {})
    for name, same in header.aliases.items():
        if name not in copies and told.get(name) != same:
            entries.append(stored[same]._replace(name=name))
    return entries
