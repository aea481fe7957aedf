"""One choice for each item, the least sum of losses under a limit on the sum of costs: the multiple-choice knapsack.

Solved by dynamic programming over the budget (Dudzinski and Walukiewicz, "Exact methods for the knapsack problem and
its generalizations", European Journal of Operational Research 28, 1987), where the Lagrangian relaxation would reach
only choices on the convex hull of each item. The budget beyond the least costs is cut into cells and every cost is
rounded up to whole cells, so the limit always holds. With whole-number costs and no more than :data:`CELLS` of them
nothing is rounded and the choice is optimal; otherwise its loss is at most the least for a budget smaller by one
cell for each item.
"""

import math
from collections.abc import Sequence

import numpy as np

CELLS = 2**16
_WORST = 1e30  # in place of a loss that is not finite
_ROUNDING = 1e-9


def cheapest(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, *, cells: int = CELLS
) -> list[int] | None:
    """Return which choice each item takes, or None if even the least costs are above ``budget``.

    Args:
        losses: of each choice of each item; one that is not finite is taken only where nothing else fits.
        costs: likewise, finite.
        budget: most that the costs may sum up to.
        cells: into how many the budget beyond the least costs is cut.
    """
    least = sum(min(each) for each in costs)
    spare = budget - least
    if spare < -_ROUNDING * max(abs(budget), 1.0):
        return None
    unit = _unit(costs, max(spare, 0.0), cells)
    room = int(max(spare, 0.0) / unit + _ROUNDING)
    sizes = [[math.ceil((cost - min(each)) / unit - _ROUNDING) for cost in each] for each in costs]
    best = np.zeros(room + 1)
    picked = []
    for item, each in enumerate(losses):
        best, pick = _joined(best, [loss if math.isfinite(loss) else _WORST for loss in each], sizes[item])
        picked.append(pick)
    taken, left = [], room
    for item in reversed(range(len(losses))):
        choice = int(picked[item][left])
        taken.append(choice)
        left -= sizes[item][choice]
    return taken[::-1]


def _unit(costs: Sequence[Sequence[float]], spare: float, cells: int) -> float:
    """Return the width of a cell: 1 where that loses nothing."""
    whole = all(float(cost).is_integer() for each in costs for cost in each)
    return 1.0 if whole and spare <= cells else spare / cells or 1.0


def _joined(best: np.ndarray, losses: Sequence[float], sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least loss within each budget once another item has joined, and what that item takes there."""
    found = np.full(len(best), np.inf)
    pick = np.zeros(len(best), np.uint8)
    for choice, (loss, size) in enumerate(zip(losses, sizes, strict=True)):
        if size >= len(best):
            continue
        within = np.full(len(best), np.inf)
        within[size:] = best[: len(best) - size] + loss
        better = within < found
        found[better], pick[better] = within[better], choice
    return found, pick
