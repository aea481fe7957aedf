"""Coupling: which positions of which tensors must be cut together (one index rule per operator, in ``rules.py``)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gossamer.model.coupling.cutting import constants, kept_units, positions, rows_of
from gossamer.model.coupling.groups import Group, Slice, build_groups
from gossamer.model.coupling.trial import tried
from gossamer.model.coupling.walk import walk
from gossamer.model.graph import Unseen

__all__ = ["Group", "Slice", "Unseen", "constants", "find_groups", "kept_units", "positions", "rows_of"]


def find_groups(
    model: nn.Module, traced: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Group, ...], tuple[Unseen, ...]]:
    """Return the groups of a model, and the operators that could not be followed.

    Args:
        model: a throwaway plain copy, for trials.
        traced: another one, for tracing.
        args: example inputs.
        kwargs: keyword example inputs.
    """
    found = walk(traced, args, kwargs)
    del traced
    return tried(build_groups(found), model, args, kwargs), tuple(found.unseen)
