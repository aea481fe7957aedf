"""Coupling: which positions of which tensors must be cut together (one index rule per operator, in ``rules.py``)."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gossamer.model.coupling.cutting import constants, kept_units, positions, rows_of
from gossamer.model.coupling.groups import Group, Slice, build_groups
from gossamer.model.coupling.trial import tried
from gossamer.model.coupling.walk import walk
from gossamer.model.graph import Unseen

__all__ = ["Group", "Slice", "Unseen", "constants", "find_groups", "kept_units", "positions", "rows_of"]


def find_groups(
    copy: Callable[[], nn.Module], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Group, ...], tuple[Unseen, ...]]:
    """Return the groups of a model, and the operators that could not be followed.

    Args:
        copy: makes a throwaway plain copy of the model: one for tracing, then, where sizes must be tried, one for that.
        args: example inputs.
        kwargs: keyword example inputs.
    """
    found = walk(copy(), args, kwargs)
    groups = build_groups(found)
    if any(group.suspects for group in groups):
        groups = tried(groups, copy(), args, kwargs)
    return groups, tuple(found.unseen)
