"""Where data files are looked for."""

import os
from pathlib import Path

DEBIAN = Path("/usr/share/datasets")


def places(folder: Path | None, *, debian: str | None = None) -> list[Path]:
    """Return the folders to look in, in order: ``folder``, $GOSSAMER_DATA, ``./data``, Debian's.

    Args:
        folder: given by the caller; if it is, nothing else is looked at.
        debian: name of the folder under ``/usr/share/datasets``, if a Debian package holds this set.
    """
    if folder is not None:
        return [folder]
    named = os.environ.get("GOSSAMER_DATA")
    found = [Path(named)] if named else []
    found.append(Path("data"))
    if debian is not None:
        found.append(DEBIAN / debian)
    return found


def listed(folders: list[Path]) -> str:
    """Return the folders as text for an error."""
    return ", ".join(str(folder) for folder in folders)
