"""Groups: the units of a model that can be cut, each with every position that goes with it.

A unit is a set of positions that must be cut together: a filter with its batch norm's entries and its readers' columns,
or a hidden unit of an LSTM with its rows in all gates. Units that touch the same tensors form a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gossamer.model.coupling.labels import Labels, Space, components
from gossamer.model.coupling.walk import Walk


@dataclass(frozen=True, eq=False)
class Slice:
    """A dimension of a tensor that units of a group touch.

    Attributes:
        tensor: name of a parameter or buffer.
        dim: the dimension.
        units: the group's unit at each position, -1 where there is none; for the second dimension of a grouped
            convolution's kernel, which means other channels in each group, all groups' positions one after another.
        parts: how many groups those are, else 1.
        reads: whether the tensor multiplies an input along this dimension.
        makes: whether it makes an output along it.
    """

    tensor: str
    dim: int
    units: Labels
    parts: int
    reads: bool
    makes: bool


@dataclass(frozen=True, eq=False)
class Constant:
    """An integer that a module keeps and that counts positions of a group, so that a cut changes it.

    Attributes:
        module: path of the module.
        attribute: the integer's name.
        rows: (value, any): the group's unit at each position counted; -1 where the position always stays.
    """

    module: str
    attribute: str
    rows: Labels


@dataclass(frozen=True, eq=False)
class Suspect:
    """A size that an operator was given, which may be a constant of the code; see :class:`Constant`."""

    module: str
    source: str
    value: int
    rows: Labels


@dataclass(frozen=True, eq=False)
class Group:
    """Units that touch the same tensors.

    Attributes:
        name: module that makes the units, or the tensor and dimension where that is no module's output.
        size: number of units.
        slices: every dimension that the units touch, in the model's order.
        lanes: rows of units that must lose equally many, or None.
        mixed: per unit, whether a normalisation, a sum or a product of two activations mixes it with others, so that it
            is never quite unread.
        stuck: why the group cannot be cut; empty if it can.
        constants: integers that change with a cut.
        suspects: sizes that may be constants.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    lanes: Labels | None = None
    mixed: NDArray[np.bool_] | None = None
    stuck: str = ""
    constants: tuple[Constant, ...] = ()
    suspects: tuple[Suspect, ...] = ()

    @property
    def readers(self) -> tuple[Slice, ...]:
        """The dimensions along which other tensors read the units."""
        return tuple(part for part in self.slices if part.reads)

    @property
    def makers(self) -> tuple[Slice, ...]:
        """The dimensions along which the units are made."""
        return tuple(part for part in self.slices if part.makes)


def build_groups(walk: Walk) -> tuple[Group, ...]:
    """Return the groups of a walked model, those that cannot be cut included, in the model's order."""
    space = walk.space
    lanes = agreed_lanes(space)
    roots = space.roots()
    reasons: dict[int, str] = {}
    for labels, reason in space.stuck:
        for root in np.unique(roots[labels]).tolist():
            reasons.setdefault(root, reason)
    slots = _slots(walk, roots)
    members = _members(slots, reasons, [roots[rows] for rows in lanes])
    units = _Units.of(members, len(roots))
    slices = _slices(slots, units, len(members))
    mixed = {root for labels in space.mixed for root in np.unique(roots[labels]).tolist()}
    groups = [
        Group(
            "",
            len(group),
            tuple(slices[place]),
            mixed=np.array([root in mixed for root in group]),
            stuck=next((reasons[root] for root in group if root in reasons), ""),
        )
        for place, group in enumerate(members)
    ]
    groups = [_with_lanes(place, group, lanes, roots, units) for place, group in enumerate(groups)]
    groups = [_with_suspects(place, group, walk, roots, units) for place, group in enumerate(groups)]
    return tuple(_named([group for group in groups if group.makers or group.readers]))


@dataclass(frozen=True)
class _Slot:
    """One labelled dimension of one tensor: the root of each position."""

    tensor: str
    dim: int
    roots: Labels
    parts: int
    reads: bool
    makes: bool


def _slots(walk: Walk, roots: Labels) -> list[_Slot]:
    reads, makes = (np.zeros(walk.space.count, bool) for _ in range(2))
    for flags, known in ((reads, walk.space.reads), (makes, walk.space.makes)):
        for one in known:
            flags[one] = True
    found = []
    for tensor, dims in walk.tensors.items():
        for dim, labels in enumerate(dims):
            if labels is not None and labels.size:
                wide = walk.kernels.get(int(labels[0]), labels) if dim == 1 else labels
                ways = wide.size // labels.size
                found.append(_Slot(tensor, dim, roots[wide], ways, bool(reads[wide].any()), bool(makes[wide].any())))
    return found


def _members(slots: Sequence[_Slot], reasons: dict[int, str], lanes: Sequence[Labels]) -> list[list[int]]:
    """Return the roots of each group's units: those that touch the same slots, and lanes of one kind together."""
    touched: dict[int, list[int]] = {}
    for number, slot in enumerate(slots):
        for root in dict.fromkeys(slot.roots.tolist()):
            touched.setdefault(root, []).append(number)
    keys: dict[tuple[object, ...], list[int]] = {}
    for root, places in touched.items():
        keys.setdefault((tuple(places), root in reasons), []).append(root)
    groups = list(keys.values())
    of = {root: number for number, group in enumerate(groups) for root in group}
    pairs = [
        (np.full(len(rest), first, np.int64), np.array(rest, np.int64))
        for rows in lanes
        if (known := list(dict.fromkeys(of[root] for root in rows.ravel().tolist() if root in of)))
        for first, *rest in [known]
        if rest
    ]
    merged: dict[int, list[int]] = {}
    for number, root in enumerate(components(len(groups), pairs).tolist()):
        merged.setdefault(root, []).extend(groups[number])
    return list(merged.values())


@dataclass(frozen=True)
class _Units:
    """By root, which group's unit it is and which of them; -1 where it is none."""

    places: Labels
    numbers: Labels

    @classmethod
    def of(cls, members: Sequence[Sequence[int]], count: int) -> "_Units":
        places, numbers = (np.full(count, -1, np.int64) for _ in range(2))
        for place, group in enumerate(members):
            places[group], numbers[group] = place, np.arange(len(group))
        return cls(places, numbers)

    def at(self, roots: Labels, place: int) -> Labels:
        """Return the unit of group ``place`` at each position, -1 for other groups'."""
        return np.where(self.places[roots] == place, self.numbers[roots], -1)


def _slices(slots: Sequence[_Slot], units: _Units, groups: int) -> list[list[Slice]]:
    """Return the slices of each group; a slot is looked at once, for most groups touch few of them."""
    found: list[list[Slice]] = [[] for _ in range(groups)]
    for slot in slots:
        for place in np.unique(units.places[slot.roots]).tolist():
            if place >= 0:
                rows = units.at(slot.roots, place)
                found[place].append(Slice(slot.tensor, slot.dim, rows, slot.parts, slot.reads, slot.makes))
    return found


def _with_lanes(place: int, group: Group, lanes: Sequence[Labels], roots: Labels, units: _Units) -> Group:
    mine = []
    for rows in lanes:
        found = units.at(roots[rows], place)
        if (found >= 0).all():
            mine.append(np.stack([row[np.sort(np.unique(row, return_index=True)[1])] for row in found]))
    stuck = group.stuck
    if not stuck and mine and mine[0].size != group.size:
        stuck = "only some of its units must be cut in equal number"
    return replace(group, lanes=mine[0] if mine else None, stuck=stuck)


def _with_suspects(place: int, group: Group, walk: Walk, roots: Labels, units: _Units) -> Group:
    found = []
    for number in walk.numbers if not group.stuck else ():
        rows = units.at(roots[number.labels], place)
        if (rows >= 0).any():
            found.append(Suspect(number.module, number.source, number.value, rows))
    return replace(group, suspects=tuple(found))


def _named(groups: Sequence[Group]) -> list[Group]:
    """Name each group after the module that makes it, or, where several would be called alike, its first slice."""
    heads = [next(iter(group.makers or group.slices)) for group in groups]
    modules = [head.tensor.rpartition(".")[0] if head.makes else "" for head in heads]
    names = [
        module if module and modules.count(module) == 1 else f"{head.tensor}[{head.dim}]"
        for module, head in zip(modules, heads, strict=True)
    ]
    return [replace(group, name=name) for name, group in zip(names, groups, strict=True)]


def agreed_lanes(space: Space) -> list[Labels]:
    """Return rows of labels whose units must be cut in equal number, no two of them at odds.

    Where rows overlap, or two partitions cross, their labels are cut together by place instead: less free, but right.
    So are the rows of a grid, for a program may read it in another order (channel shuffle).
    """
    while True:
        roots = space.roots()
        found: list[Labels] = []
        clash = False
        for grid in space.grids:
            if _is_free(roots[grid]):
                space.same(grid[:1], grid)
                clash = True
        for rows in space.lanes:
            now = _distinct(roots[rows])
            if now is not None and all(np.array_equal(np.sort(row), np.sort(now[0])) for row in now):
                continue
            if now is None or np.unique(now).size != now.size or not _fits(roots, rows, found):
                space.same(rows[:1], rows)
                clash = True
        if not clash:
            return found


def _is_free(grid: Labels) -> bool:
    """Whether neither the rows nor the columns of a grid of roots are cut as wholes already."""
    return bool((grid != grid[:, :1]).any() and (grid != grid[:1]).any())


def _distinct(rows: Labels) -> Labels | None:
    """Return the distinct entries of each row, or None if their numbers differ."""
    each = [np.unique(row) for row in rows]
    return np.stack(each) if len({len(row) for row in each}) == 1 else None


def _fits(roots: Labels, rows: Labels, found: list[Labels]) -> bool:
    """Add ``rows`` to ``found`` if it is at odds with nothing there; of two nested partitions the finer stays."""
    mine = [set(row.tolist()) for row in roots[rows]]
    whole = set().union(*mine)
    for number, other in enumerate(found):
        theirs = [set(row.tolist()) for row in roots[other]]
        if not whole & set().union(*theirs):
            continue
        if all(any(small <= big for big in mine) for small in theirs) and whole == set().union(*theirs):
            return True
        if all(any(small <= big for big in theirs) for small in mine) and whole == set().union(*theirs):
            found[number] = rows
            return True
        return False
    found.append(rows)
    return True
