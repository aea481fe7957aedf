"""Downloads: https only, checked against a SHA-256, and moved in place only when they are right."""

import gzip
import hashlib
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from gossamer.artifact.files import write_file
from gossamer.errors import DataError

LARGEST = 1 << 28
SECONDS = 30


def download(address: str, path: Path, *, sha256_unzipped: str, hint: str) -> None:
    """Fetch a gzipped file.

    Args:
        address: where it is, https.
        path: where it goes; its folder is made if missing.
        sha256_unzipped: SHA-256 of the unzipped content, hexadecimal.
        hint: how else to get the file, told where it cannot be downloaded.

    Raises:
        DataError: another scheme than https, no network, too large, not gzipped, or another checksum.
    """
    if not address.startswith("https://"):
        raise DataError(f"{address}: wanted an https address")
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:  # noqa: S310 - https, checked above
            data: bytes = answer.read(LARGEST + 1)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(f"{address}: {error}", hint=hint) from error
    if len(data) > LARGEST:
        raise DataError(f"{address}: more than {LARGEST} bytes")
    found = hashlib.sha256(_unzipped(data, address)).hexdigest()
    if found != sha256_unzipped:
        raise DataError(f"{address}: content has SHA-256 {found}, wanted {sha256_unzipped}; nothing was stored")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, [data])


def _unzipped(data: bytes, address: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{address}: not a gzip file: {error}") from error
