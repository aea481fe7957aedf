"""From units that stay to positions that stay, for every tensor that the units touch."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.errors import PlanError
from gossamer.model.coupling.groups import Group, Slice
from gossamer.model.coupling.labels import Labels
from gossamer.model.resize import Index

Kept = Mapping[str, NDArray[np.bool_]]
"""Which units of each group that loses some stay, by the group's name."""


def kept_units(groups: Sequence[Group], keep: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, NDArray[np.bool_]]:
    """Return flags of the units that stay.

    Args:
        groups: all groups of the model.
        keep: name of a group and the units that stay.

    Raises:
        PlanError: no such group, one that cannot be cut, units that are not there, none left, or lanes that would lose
            different numbers.
    """
    known = {group.name: group for group in groups}
    found = {}
    for name, units in keep:
        group = known.get(name)
        if group is None:
            raise PlanError(f"there is no group {name!r}", hint=f"the groups are: {', '.join(known) or 'none'}")
        if group.stuck:
            raise PlanError(f"{name}: cannot be cut: {group.stuck}")
        if not units or min(units) < 0 or max(units) >= group.size:
            raise PlanError(f"{name}: wanted units from 0 to {group.size - 1} and at least one, got {units}")
        flags = np.zeros(group.size, bool)
        flags[list(units)] = True
        if group.lanes is not None and len({int(flags[lane].sum()) for lane in group.lanes}) > 1:
            raise PlanError(f"{name}: its {len(group.lanes)} lanes must lose equally many units")
        found[name] = flags
    return found


def positions(groups: Sequence[Group], kept: Kept) -> dict[str, Index]:
    """Return for every tensor that shrinks the positions that stay along each dimension."""
    removed: dict[str, dict[int, tuple[NDArray[np.bool_], int]]] = {}
    for group in groups:
        if group.name not in kept:
            continue
        for part in group.slices:
            gone = (part.units >= 0) & ~kept[group.name][part.units]
            before, _ = removed.setdefault(part.tensor, {}).get(part.dim, (np.zeros_like(gone), 1))
            removed[part.tensor][part.dim] = (before | gone, part.parts)
    found = {}
    for tensor, dims in removed.items():
        if any(gone.any() for gone, _ in dims.values()):
            found[tensor] = tuple(_positions(*dims[dim]) if dim in dims else None for dim in range(max(dims) + 1))
    return found


def _positions(gone: NDArray[np.bool_], parts: int) -> Labels | None:
    if not gone.any():
        return None
    if parts == 1:
        return np.flatnonzero(~gone)
    return np.stack([np.flatnonzero(~row) for row in gone.reshape(parts, -1)])


def constants(groups: Sequence[Group], kept: Kept) -> tuple[tuple[str, str, int], ...]:
    """Return module path, attribute and new value of every integer that code keeps of a size that changes."""
    gone: dict[tuple[str, str], Labels] = {}
    wide: dict[tuple[str, str], int] = {}
    for group in groups:
        for constant in group.constants if group.name in kept else ():
            key = (constant.module, constant.attribute)
            rows = constant.rows
            lost = ((rows >= 0) & ~kept[group.name][rows]).sum(1)
            gone[key] = gone.get(key, np.zeros(len(rows), np.int64)) + lost
            wide[key] = rows.shape[1]
    return tuple((*key, int((lost < wide[key]).sum())) for key, lost in gone.items() if (lost >= wide[key]).any())


def rows_of(part: Slice, tensor: Tensor) -> Tensor:
    """Return ``tensor`` as a matrix with one row per position of ``part``, whatever else belongs to it in the row."""
    pieces = tensor.chunk(part.parts) if part.parts > 1 else (tensor,)
    rows = [piece.transpose(0, part.dim).reshape(piece.shape[part.dim], -1) for piece in pieces]
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def reading_columns(part: Slice, unit: NDArray[np.bool_]) -> Labels:
    """Return the positions of the units flagged in ``unit`` along a slice."""
    return np.flatnonzero((part.units >= 0) & unit[part.units])
