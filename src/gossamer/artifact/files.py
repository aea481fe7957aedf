"""Files: an artifact to disk in one step or not at all, and back."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.container import loads, parts
from gossamer.errors import ArtifactError, about


def save(path: str | Path, artifact: Artifact) -> int:
    """Write ``artifact`` to ``path`` and return the bytes written.

    The file appears complete or not at all: it is written beside ``path``, flushed to the disk and renamed.

    Raises:
        ArtifactError: the artifact cannot be stored, or the disk refuses; what was at ``path`` is untouched.
    """
    pieces = parts(artifact)
    try:
        write_file(Path(path), pieces)
    except OSError as error:
        raise ArtifactError(f"cannot be written: {error.strerror or error}", str(path)) from error
    return sum(map(len, pieces))


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write ``pieces`` to ``path`` in one move: after a crash the old file or the new is there, never a piece.

    Raises:
        OSError: the disk refuses; what was at ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(path: str | Path, *, max_bytes: int = 1 << 34) -> Artifact:
    """Read the artifact at ``path``: every checksum and bound is checked, nothing is decoded yet.

    Args:
        path: the file.
        max_bytes: refuse a file whose tensors decode to more than this.

    Raises:
        ArtifactError: the file cannot be read, is damaged, is malformed or passes a bound; names the file.
    """
    data = read_bytes(path)
    with about(path):
        return loads(data, max_bytes=max_bytes)


def read_bytes(path: str | Path) -> bytes:
    """Return the file's bytes.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror or error}", str(path)) from error
