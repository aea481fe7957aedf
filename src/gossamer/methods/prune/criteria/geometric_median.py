"""Distance from the other units: those nearest to the geometric median of a group can be replaced by the others.

He, Liu, Wang, Hu and Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
CVPR 2019 (arXiv 1811.00250), equation 6: the sum of Euclidean distances to all filters of the layer.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from gossamer.methods.prune.criteria.weights import making_rows
from gossamer.model import Evidence, Group, Subject


def geometric_median(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return the sum of distances from each unit to all units of its group (of its lane, where there are several)."""
    del evidence
    lanes = np.arange(group.size)[None] if group.lanes is None else group.lanes
    total = np.zeros(group.size)
    made = False
    for part, rows in making_rows(subject, group):
        for lane in lanes:
            vectors = [rows[part.units == unit].flatten().double() for unit in lane.tolist()]
            if len({len(vector) for vector in vectors}) != 1 or not len(vectors[0]):
                continue
            stacked = torch.stack(vectors)
            total[lane] += torch.cdist(stacked, stacked, compute_mode="donot_use_mm_for_euclid_dist").sum(1).numpy()
            made = True
    return total if made else "no weight makes its units"
