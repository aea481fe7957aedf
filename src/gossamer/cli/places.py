"""Where an output may go: checked before any work, so that no input is overwritten and no hour of work is lost."""

import os
from collections.abc import Iterable
from pathlib import Path

from gossamer.errors import SettingError


def writable(output: Path, *, suffixes: Iterable[str], inputs: Iterable[str | Path | None] = ()) -> Path:
    """Return ``output`` if a file can be written there.

    Args:
        output: where a command is asked to write.
        suffixes: what the name may end in.
        inputs: what the command reads: files, or texts such as ``file.py:factory`` and ``text:PATH`` that name one.

    Raises:
        SettingError: another suffix, a folder, a place that cannot be written, or one of the inputs.
    """
    wanted = tuple(suffixes)
    if output.suffix not in wanted:
        raise SettingError(f"{output}: wanted an output ending in {' or '.join(wanted)}")
    if output.is_dir():
        raise SettingError(f"{output}: is a folder, wanted a file to write")
    for given in inputs:
        if given is not None and any(_same(output, path) for path in _files(given)):
            raise SettingError(f"{output}: is read by this command, and would be overwritten", hint="name another file")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir():
        raise SettingError(f"{output}: {above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SettingError(f"{output}: the folder {above} cannot be written to")
    return output


def _files(given: str | Path) -> Iterable[Path]:
    """Yield the files that an input may name: itself, or either side of a colon."""
    yield Path(given)
    if isinstance(given, str):
        place, _, name = given.rpartition(":")
        yield from (Path(part) for part in (place, name, given.partition(":")[2]) if part)


def _same(output: Path, path: Path) -> bool:
    return path.exists() and (output.resolve() == path.resolve() or (output.exists() and output.samefile(path)))
