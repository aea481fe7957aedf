"""How active a unit is where it is read.

Mean activation is one of the criteria of Molchanov et al., ICLR 2017 (arXiv 1611.06440), section 2.2, here of absolute
values, which is the same after a rectifier and right for tanh too. APoZ, the average percentage of zeros, is Hu, Peng,
Tai and Tang, "Network Trimming", 2016 (arXiv 1607.03250), equation 1: units that are most often zero go first.
"""

import numpy as np
from numpy.typing import NDArray

from gossamer.errors import EvidenceError
from gossamer.model import Evidence, Group, Subject


def activation(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return the mean absolute activation of each unit."""
    del subject
    found = None if evidence is None else evidence.activities.get(group.name)
    return _missing(evidence) if found is None else found.mean.double().numpy()


def apoz(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return the share of activations of each unit that are not zero: one minus its APoZ."""
    del subject
    found = None if evidence is None else evidence.activities.get(group.name)
    return _missing(evidence) if found is None else found.nonzero.double().numpy()


def _missing(evidence: Evidence | None) -> str:
    if evidence is None or not evidence.has("activity"):
        raise EvidenceError("this criterion needs activity", hint="calibrate with needs including 'activity'")
    return "no input of a weight that reads it was seen"
