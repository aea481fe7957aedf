"""Is a file sound: everything that loading checks, and every tensor decoded."""

from pathlib import Path

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.container import loads
from gossamer.artifact.files import read_bytes
from gossamer.errors import ArtifactError


def verify(path: str | Path, *, max_bytes: int = 1 << 34) -> list[str]:
    """Read the file, decode every tensor and return what is wrong with it; an empty list means it is sound."""
    try:
        artifact = loads(read_bytes(path), max_bytes=max_bytes)
    except ArtifactError as error:  # the caller knows which file this is
        return [error.what if error.where == str(path) else str(error)]
    return problems(artifact)


def problems(artifact: Artifact) -> list[str]:
    """Decode every tensor of ``artifact`` and return what is wrong."""
    found = []
    for name in artifact.tensors:
        try:
            artifact.array(name)
        except ArtifactError as error:
            found.append(str(error))
    return found
