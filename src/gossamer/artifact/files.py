"""Files: an artifact to disk in one step or not at all, and back."""

import os
import platform
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.container import loads, parts
from gossamer.errors import ArtifactError, about

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_WRITING: set[Path] = set()
"""What this process is writing at the moment, in any thread."""


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


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write ``pieces`` to ``path`` in one move: after a crash the old file or the new is there, never a piece.

    What a writer of ``path`` on this machine left beside it when it was killed is removed.

    Raises:
        OSError: the disk refuses; what was at ``path`` is untouched.
    """
    with placed(path) as file:
        file.writelines(pieces)


@contextmanager
def placed(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its place at ``path`` in one move after the block; see `write_file`.

    Raises:
        OSError: the disk refuses; what was at ``path`` is untouched.
    """
    with beside(path) as temporary:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    _sweep(path)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a new name beside ``path`` to what is being made of it; whatever bears it after the block is removed."""
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.{token_hex(4)}")
    _WRITING.add(temporary)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _WRITING.discard(temporary)


def _sweep(path: Path) -> None:
    """Remove what writers of ``path`` left beside it when they were killed."""
    for left in path.parent.glob(f".{escape(path.name)}.{_HOST}-*.*"):
        with suppress(OSError):
            if _abandoned(left, path):
                left.unlink()


def _abandoned(left: Path, path: Path) -> bool:
    """Return whether ``left`` is a piece of ``path`` whose writer is no more."""
    found = re.fullmatch(r"(\d+)\.[0-9a-f]{8}", left.name.removeprefix(f".{path.name}.{_HOST}-"))
    if found is None or os.name != "posix":  # elsewhere asking after a process can end it
        return False
    writer = int(found[1])
    if writer == os.getpid():  # in a container, every run may have the same number
        return left not in _WRITING
    try:
        os.kill(writer, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it belongs to someone else, and lives
        return False
    return False


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
