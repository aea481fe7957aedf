"""What is left of operations and parameters when units go, without cutting anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from gossamer.model.coupling import Group, positions
from gossamer.model.resize import Index
from gossamer.model.site import find_sites
from gossamer.model.subject import Subject

Keep = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class CutCost:
    """Counts of a subject as functions of the units that stay.

    Attributes:
        groups: the subject's groups.
        shapes: shape of every parameter.
        products: multiply-accumulates and the weights read, of each operator that reads some.
        fixed: multiply-accumulates of operators that read no weight, taken as they are.
    """

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    products: tuple[tuple[int, tuple[str, ...]], ...]
    fixed: int

    def macs(self, keep: Keep) -> float:
        """Return the multiply-accumulates of one pass when the units of ``keep`` stay (all of groups not named)."""
        index = positions(self.groups, keep)
        return self.fixed + sum(macs * self._left(names, index) for macs, names in self.products)

    def parameters(self, keep: Keep) -> int:
        """Return the number of parameters that stay."""
        index = positions(self.groups, keep)
        return sum(prod(shape_of(shape, index.get(name))) for name, shape in self.shapes.items())

    def macs_of_unit(self, group: Group) -> float:
        """Return the multiply-accumulates that one unit of ``group`` (one of each lane) takes with it, on average."""
        steps = group.size if group.lanes is None else group.lanes.shape[1]
        keep = np.ones(group.size, bool)
        keep[0 if group.lanes is None else group.lanes[:, 0]] = False
        return self.macs({}) - self.macs({group.name: keep}) if steps > 1 else self.macs({})

    def _left(self, names: tuple[str, ...], index: Mapping[str, Index]) -> float:
        whole = sum(prod(self.shapes[name]) for name in names)
        return sum(prod(shape_of(self.shapes[name], index.get(name))) for name in names) / max(whole, 1)


def cut_cost(subject: Subject) -> CutCost:
    """Return the counts of ``subject``."""
    every = find_sites(subject.model, every=True)
    shapes = {name: site.shape for name, site in every.items()}
    products, fixed = [], 0
    for node in subject.graph.nodes:
        read = tuple(name for name in node.sites if name in subject.sites)
        if node.macs and read:
            products.append((node.macs, read))
        else:
            fixed += node.macs or 0
    return CutCost(subject.groups, shapes, tuple(products), fixed)


def shape_of(shape: tuple[int, ...], kept: Index | None) -> tuple[int, ...]:
    """Return ``shape`` after a cut."""
    found = list(shape)
    for dim, places in enumerate(kept or ()):
        if places is not None:
            found[dim] = places.shape[-1]
    return tuple(found)
