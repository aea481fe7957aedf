"""A lock on the folder of a run: two processes that wrote there at once would undo each other's work.

The operating system keeps it with the open file, so that it ends with the process, however that ends; the empty file
``.lock`` that it is on stays.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gossamer.errors import BusyError

NAME = ".lock"

if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other run out of ``folder``, which is made if missing, while the block runs.

    Raises:
        BusyError: another run, of this process or another, is going on there.
        OSError: the folder cannot be made, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            _take(handle)
        except (BlockingIOError, PermissionError) as error:
            raise BusyError(
                f"{folder}: another run is going on in this folder",
                hint="wait until it has ended, or name another folder (--work; from Python, folder=)",
            ) from error
        yield
    finally:
        os.close(handle)
