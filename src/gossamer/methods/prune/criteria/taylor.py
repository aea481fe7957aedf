"""First-order Taylor expansion of the loss around a unit's activation.

Molchanov, Tyree, Karras, Aila and Kautz, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
ICLR 2017 (arXiv 1611.06440), equation 8: ``|mean over the feature map of gradient times activation|``, averaged over
samples.
"""

import numpy as np
from numpy.typing import NDArray

from gossamer.errors import EvidenceError
from gossamer.model import Evidence, Group, Subject


def taylor(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return the expected change of the loss, to first order, when each unit alone goes."""
    del subject
    if evidence is None or not evidence.has("taylor"):
        raise EvidenceError("this criterion needs taylor", hint="calibrate with needs including 'taylor'")
    found = evidence.taylors.get(group.name)
    return "no weight reads its units" if found is None else found.double().numpy()
