"""Criteria that rank the units of a group, one file each: the lower a unit's score, the sooner it goes.

A criterion is a function from a subject, its evidence and a group to one score per unit, float64 (units,), or to the
reason why it has none; ``NEEDS`` says which evidence it asks for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gossamer.methods.prune.criteria import activity, fisher, geometric_median, norm_scale, taylor, weights
from gossamer.model import Evidence, Group, Subject

Scores = NDArray[np.float64] | str
Name = Literal["l1", "l2", "activation", "apoz", "taylor", "geometric_median", "norm_scale", "fisher"]


@dataclass(frozen=True)
class Criterion:
    """How units are scored, and the evidence that takes."""

    scores: Callable[[Subject, Evidence | None, Group], Scores]
    needs: frozenset[str] = frozenset()


CRITERIA: Mapping[Name, Criterion] = {
    "l1": Criterion(weights.l1),
    "l2": Criterion(weights.l2),
    "activation": Criterion(activity.activation, frozenset({"activity"})),
    "apoz": Criterion(activity.apoz, frozenset({"activity"})),
    "taylor": Criterion(taylor.taylor, frozenset({"taylor"})),
    "geometric_median": Criterion(geometric_median.geometric_median),
    "norm_scale": Criterion(norm_scale.norm_scale),
    "fisher": Criterion(fisher.fisher, frozenset({"gradient"})),
}
