"""The scale that a normalisation gives a unit.

Liu, Li, Shen, Huang, Yan and Zhang, "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017
(arXiv 1708.06519): the absolute value of the batch norm's scale; it ranks best after training with an L1 penalty on it.
"""

import numpy as np
from numpy.typing import NDArray

from gossamer.methods.prune.criteria.weights import by_unit
from gossamer.model import Evidence, Group, Subject, find_sites


def norm_scale(subject: Subject, evidence: Evidence | None, group: Group) -> NDArray[np.float64] | str:
    """Return the sum of absolute scales that normalisations give each unit."""
    del evidence
    every = find_sites(subject.model, every=True)
    parameters = dict(subject.model.named_parameters())
    total = None
    for part in group.slices:
        site = every.get(part.tensor)
        if site is not None and site.kind == "norm" and part.tensor.endswith("weight") and part.tensor in parameters:
            more = by_unit(group, part, parameters[part.tensor].detach().cpu().double().abs())
            total = more if total is None else total + more
    return "no normalisation scales its units" if total is None else total
