"""Bytes to header and blobs, and back: the ``.goss`` file (`SPEC.md`)."""

from gossamer.artifact.artifact import JSON, Artifact
from gossamer.artifact.books import stored_bytes
from gossamer.artifact.container import dumps, loads
from gossamer.artifact.difference import Difference, TensorChange, diff
from gossamer.artifact.files import load, save
from gossamer.artifact.inspect import Summary, TensorSummary, inspect
from gossamer.artifact.sound import problems, verify

__all__ = [
    "JSON",
    "Artifact",
    "Difference",
    "Summary",
    "TensorChange",
    "TensorSummary",
    "diff",
    "dumps",
    "inspect",
    "load",
    "loads",
    "problems",
    "save",
    "stored_bytes",
    "verify",
]
