"""IDX files, plain or gzipped: the format of MNIST (http://yann.lecun.com/exdb/mnist/).

Two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then the numbers. Only
unsigned bytes (code 8) occur in the sets read here.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gossamer.errors import DataError

UNSIGNED_BYTES = 8
LARGEST = 1 << 30
"""Bytes that are read at most, so that a wrong file cannot fill the memory."""


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file.

    Args:
        path: the file; gzipped if it starts as gzip files do.
        dimensions: how many there must be.

    Raises:
        DataError: not an IDX file of unsigned bytes, damaged, truncated, or of another number of dimensions.
    """
    return parse(unpacked(path), dimensions, str(path))


def unpacked(path: Path) -> bytes:
    """Return the content of a file, unzipped if it is gzipped.

    Raises:
        DataError: it cannot be read or unzipped.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            data: bytes = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="get the file again") from error
    if len(data) > LARGEST:
        raise DataError(f"{path}: more than {LARGEST} bytes, too large for an IDX file of images")
    return data


def parse(data: bytes, dimensions: int, where: str) -> NDArray[np.uint8]:
    """Return the array in the bytes of an IDX file; see :func:`read`.

    Raises:
        DataError: see :func:`read`.
    """
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise DataError(f"{where}: {len(data)} bytes are too few for an IDX header of {start}")
    if data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTES:
        raise DataError(f"{where}: starts with {data[:4].hex()}, wanted the IDX magic 000008{dimensions:02x}")
    if data[3] != dimensions:
        raise DataError(f"{where}: {data[3]} dimensions, wanted {dimensions}")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{where}: header says {'×'.join(map(str, shape))} = {math.prod(shape)} bytes, "
            f"the file has {len(data) - start}",
            hint="the file is truncated or damaged; get it again",
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
