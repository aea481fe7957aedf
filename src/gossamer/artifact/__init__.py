"""Bytes to header and blobs, and back: the ``.goss`` file (`SPEC.md`)."""

from gossamer.artifact.artifact import JSON, Artifact
from gossamer.artifact.container import dumps, loads
from gossamer.artifact.files import load, save

__all__ = ["JSON", "Artifact", "dumps", "load", "loads", "save"]
