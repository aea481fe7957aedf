"""Files larger than memory: written and read a tensor at a time, the same bytes as `files.save` and `files.load`."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.container import PREFIX, Reader, Writer, read_header
from gossamer.artifact.files import beside, write_file
from gossamer.artifact.layout import Payload, bound
from gossamer.codings import Coding
from gossamer.codings.nodes import Array
from gossamer.errors import ArtifactError, about

_PIECE = 1 << 20


class Spool:
    """An artifact in the making: the header stands first but is known last, so the payload waits in a file beside.

    Use it in a ``with`` block: `add` every tensor, `seal` once, then `place`. What is not placed is gone at its end.

    Args:
        path: where the file is to appear.

    Raises:
        ArtifactError: of every method: the disk refuses. What was at ``path`` is untouched.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with self._writing():
            temporary = self._open.enter_context(beside(self.path))
            self._file: BinaryIO = self._open.enter_context(temporary.open("x+b"))
        self._writer = Writer(self._file.write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # of a full disk once more, by what is to go anyway
            self._open.close()

    def add(self, name: str, node: Coding) -> int:
        """Write the next tensor's payload and return its bytes.

        Raises:
            ArtifactError: the name is used already, or no reader would accept the tree.
        """
        with self._writing():
            return self._writer.add(name, node)

    def seal(self, rest: Artifact) -> int:
        """Close the file with everything but the tensors and return the bytes it will have.

        Raises:
            ArtifactError: a part is not plain data, or an alias is not a new name of a stored tensor.
        """
        with self._writing():
            self._file.flush()
        self._head, self._tail = self._writer.seal(rest)
        return len(self._head) + self._file.tell() + len(self._tail)

    def place(self) -> None:
        """Write the file, complete or not at all."""
        with self._writing():
            write_file(self.path, self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        yield self._head
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
        yield self._tail

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactError(f"cannot be written: {error.strerror or error}", str(self.path)) from error


@contextmanager
def opened(path: str | Path, *, max_bytes: int = 1 << 34) -> Iterator[Reader]:
    """Open the artifact at ``path`` to read its tensors one after the other, in the bounds that `files.load` keeps.

    Args:
        path: the file.
        max_bytes: refuse a file whose tensors decode to more than this.

    Raises:
        ArtifactError: the file cannot be read, is damaged, is malformed or passes a bound; names the file.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(path).open("rb"))
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(PREFIX.size)
            length = PREFIX.unpack(prefix)[3] if len(prefix) == PREFIX.size else 0
            start = prefix + file.read(min(length, size))
        except OSError as error:
            raise ArtifactError(f"cannot be read: {error.strerror or error}", str(path)) from error
        stack.enter_context(about(path))
        header, begin = read_header(start, size)
        yield Reader(header, Payload(lambda count: _read(file, count), size - begin, bound(size)), max_bytes)


def _read(file: BinaryIO, count: int) -> Array:
    """Return the next ``count`` bytes as an array of its own."""
    part = np.empty(count, np.uint8)
    try:
        got = file.readinto(part.data)  # type: ignore[attr-defined]
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror or error}", "payload") from error
    if got != count:
        raise ArtifactError(f"the file ends {count - got} bytes early: it changed while it was read", "payload")
    return part
