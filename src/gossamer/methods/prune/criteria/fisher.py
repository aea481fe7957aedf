"""Second-order Taylor expansion of the loss with a diagonal Hessian: optimal brain damage for whole units.

LeCun, Denker and Solla, "Optimal Brain Damage", NIPS 1989: the loss grows by half the sum of ``h w²`` when weights go;
the diagonal ``h`` is that of the empirical Fisher information (Theis et al. 2018, arXiv 1801.05787).
"""

import numpy as np
from numpy.typing import NDArray

from gossamer.errors import EvidenceError
from gossamer.methods.prune.criteria.weights import by_unit, making_rows
from gossamer.model import Evidence, Group, Subject
from gossamer.model.coupling import rows_of


def fisher(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return half the sum of Fisher information times squared weight over the weights that make each unit."""
    if evidence is None or not evidence.has("gradient"):
        raise EvidenceError("this criterion needs gradient", hint="calibrate with needs including 'gradient'")
    total = None
    for part, rows in making_rows(subject, group):
        if part.tensor in evidence.fishers:
            information = rows_of(part, evidence.fisher(part.tensor).double())
            more = by_unit(group, part, (information * rows.double().square()).sum(1) / 2)
            total = more if total is None else total + more
    return "no gradient of a weight that makes its units was seen" if total is None else total
