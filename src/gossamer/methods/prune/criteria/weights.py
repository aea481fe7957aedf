"""Norms of the weights that make a unit.

Li, Kadav, Durdanovic, Samet and Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017 (arXiv 1608.08710), section
3.1: the sum of absolute kernel weights of a filter; and its Euclidean norm. Where several layers make a unit together
(a residual stream, the gates of a recurrent cell), all their weights count.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm

from gossamer.model import Evidence, Group, Slice, Subject, live_weight
from gossamer.model.coupling import rows_of

AT_ONCE = 1 << 22
"""Weights whose norms are taken together."""


def l1(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return the sum of absolute weights of each unit."""
    del evidence
    return _summed(subject, group, lambda rows: vector_norm(rows, 1, 1, dtype=torch.float64))


def l2(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return the Euclidean norm of the weights of each unit."""
    del evidence
    found = _summed(subject, group, lambda rows: vector_norm(rows, 2, 1, dtype=torch.float64).square())
    return found if isinstance(found, str) else np.sqrt(found)


def making_rows(subject: Subject, group: Group) -> Iterator[tuple[Slice, Tensor]]:
    """Yield every weight that makes units of ``group``, as rows: one per position of its slice."""
    for part in group.makers:
        if part.tensor in subject.sites:
            yield part, rows_of(part, live_weight(subject, part.tensor).cpu())


def by_unit(group: Group, part: Slice, values: Tensor) -> NDArray[np.float64]:
    """Return the sum of ``values``, one per position of ``part``, over the positions of each unit."""
    known = part.units >= 0
    return np.bincount(part.units[known], values.numpy()[known], minlength=group.size).astype(np.float64)


def _summed(subject: Subject, group: Group, of: Callable[[Tensor], Tensor]) -> NDArray[np.float64] | str:
    total = None
    for part, rows in making_rows(subject, group):
        parts = torch.split(rows, max(1, AT_ONCE // max(rows.shape[1], 1)))  # a copy in float64 each
        norms = [of(some) for some in parts]
        more = by_unit(group, part, torch.cat(norms))
        total = more if total is None else total + more
    return "no weight makes its units" if total is None else total
