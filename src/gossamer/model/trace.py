"""Tracing: from a module to its graph through ``torch.export``."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gossamer.model.graph import Graph


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """Return the graph."""
    raise NotImplementedError
