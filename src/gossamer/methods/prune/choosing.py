"""Choosing units: from scores to the units that stay, under a budget.

Units go in the order of their scores, over all groups together or in each group the same share, until the share of what
is counted (units, multiply-accumulates or parameters) is gone. Where units lie in lanes, the lowest of every lane go
together, so that lanes stay equal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gossamer.model import Group

Scope = Literal["global", "group"]
Kept = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The units of one group in the order in which they go.

    Attributes:
        name: the group.
        size: its number of units.
        steps: (steps, lanes): the units that go together, first row first.
        scores: (steps,): score of each row, rising.
        most: how many rows may go.
        multiple: rows that stay must be a multiple of this, unless none go.
    """

    name: str
    size: int
    steps: NDArray[np.int64]
    scores: NDArray[np.float64]
    most: int
    multiple: int

    def kept(self, gone: int) -> NDArray[np.bool_]:
        """Return flags of the units that stay when about ``gone`` rows go."""
        total = len(self.steps)
        stay = max(total - min(gone, self.most), 1)
        stay = min(-(-stay // self.multiple) * self.multiple, total)
        keep = np.ones(self.size, bool)
        keep[self.steps[: total - stay]] = False
        return keep


def ranked(group: Group, scores: NDArray[np.float64], *, floor: float, round_to: int) -> Ranking:
    """Return the order in which units of ``group`` go.

    Args:
        group: the group.
        scores: one per unit; the lowest go first, among equals the first.
        floor: share of the units that stays in any case; one always does.
        round_to: the number that stays is a multiple of it.
    """
    lanes = np.arange(group.size)[None] if group.lanes is None else group.lanes
    order = np.argsort(scores[lanes], axis=1, kind="stable")
    steps = np.take_along_axis(lanes, order, 1).T
    each = scores[steps].sum(1)
    stay = max(1, int(np.ceil(floor * len(steps) - 1e-9)))
    return Ranking(group.name, group.size, steps, each, len(steps) - stay, round_to)


def chosen(
    rankings: Sequence[Ranking],
    amount: float,
    scope: Scope,
    gone_share: Callable[[Mapping[str, NDArray[np.bool_]]], float],
) -> Kept:
    """Return the units that stay, of every group that loses some.

    As near to ``amount`` goes as whole units allow.

    Args:
        rankings: the groups.
        amount: share that goes, from 0 to 1; where floors forbid it, as much as they allow goes.
        scope: ``global`` ranks all units together; ``group`` takes the same share of every group.
        gone_share: the share that is gone when some units stay.
    """
    gone_at, levels = _evenly(rankings) if scope == "group" else _together(rankings)

    def kept(level: int) -> Kept:
        flags = {one.name: one.kept(gone) for one, gone in zip(rankings, gone_at(level), strict=True)}
        return {name: keep for name, keep in flags.items() if not keep.all()}

    low, high = 0, levels
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if gone_share(kept(middle)) >= amount - 1e-12 else (middle + 1, high)
    before = kept(max(low - 1, 0))
    return min((before, kept(low)), key=lambda keep: abs(gone_share(keep) - amount))


Levels = tuple[Callable[[int], Sequence[int]], int]
"""The rows that go of each group at a level, and the highest level."""


def _evenly(rankings: Sequence[Ranking]) -> Levels:
    """Take the same share of every group, in thousandths."""

    def gone_at(level: int) -> list[int]:
        return [int(level / 1000 * len(one.steps) + 1e-9) for one in rankings]

    return gone_at, 1000


def _together(rankings: Sequence[Ranking]) -> Levels:
    """Take the lowest rows of all groups, one after another."""
    scores = np.concatenate([one.scores[: one.most] for one in rankings])
    owner = np.concatenate([np.full(one.most, place) for place, one in enumerate(rankings)])
    owner = owner[np.argsort(scores, kind="stable")]

    def gone_at(level: int) -> list[int]:
        return [int(count) for count in np.bincount(owner[:level], minlength=len(rankings))]

    return gone_at, len(owner)
