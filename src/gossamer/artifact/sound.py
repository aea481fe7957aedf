"""Is a file sound: everything that loading checks, and every tensor decoded."""

from pathlib import Path

from gossamer.artifact.artifact import Artifact
from gossamer.artifact.files import load
from gossamer.errors import ArtifactError


def verify(path: str | Path, *, max_bytes: int = 1 << 34) -> list[str]:
    """Read the file, decode every tensor and return what is wrong with it; an empty list means it is sound."""
    try:
        artifact = load(path, max_bytes=max_bytes)
    except ArtifactError as error:
        return [str(error)]
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
