"""Freeze: from live constraints to plain weights and the coding hints of every tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gossamer.model.constraint import Grid
from gossamer.model.subject import Subject


@dataclass(frozen=True, eq=False)
class Frozen:
    """A plain model and what is needed to store it.

    Attributes:
        model: plain module without constraints or hooks; its weights are the decoded ``tensors``.
        tensors: coding hint (a tree of ``gossamer.codings``) of each stored ``state_dict`` entry.
        aliases: other ``state_dict`` names of stored entries.
        edits: edits as plain data, in order.
        activations: input grid of each site's module.
        grids: weight grid of each site that has one.
        dtypes: torch dtype name of the entries whose decoded dtype is not the parameter's.
    """

    model: nn.Module
    tensors: Mapping[str, Any]
    aliases: Mapping[str, str]
    edits: tuple[Mapping[str, Any], ...]
    activations: Mapping[str, Grid]
    grids: Mapping[str, Grid]
    dtypes: Mapping[str, str]


def freeze(subject: Subject) -> Frozen:
    """Bake the constraints and return the plain model with its coding hints."""
    raise NotImplementedError


def to_artifact(frozen: Frozen, *, graph: bytes | None = None, meta: Mapping[str, Any] | None = None) -> Any:
    """Return the artifact of ``frozen``: each hint encoded by the smallest exact coding."""
    raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Loaded:
    """A read artifact, ready to fill a fresh model."""

    artifact: Any

    def into(self, model: nn.Module) -> nn.Module:
        """Replay the edits on ``model``, fill its weights and return it."""
        raise NotImplementedError


def load(path: str | Path) -> Loaded:
    """Read a ``.goss`` file."""
    raise NotImplementedError
