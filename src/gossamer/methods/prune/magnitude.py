"""Magnitude pruning: the weights that are smallest in absolute value become zero.

Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015 (arXiv
1506.02626), with the share of zeros given instead of a threshold; ramped up while training it is the gradual pruning of
Zhu and Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878).
"""

from typing import ClassVar

from gossamer.methods.prune.ranked import Ranked, Scores, weight_of
from gossamer.model import Evidence, Site, Subject


class Magnitude(Ranked, frozen=True, tag="prune.magnitude"):
    """Zero a share of the weights, those smallest in absolute value.

    Weights that are zero already count towards the share and stay zero, so masks of growing sparsity are nested.
    Biases and norms are never pruned.
    """

    apart: ClassVar[bool] = True

    def scores(self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...]) -> Scores:
        """Return the weights, whose absolute values count."""
        del evidence
        return {site.name: weight_of(subject, site.name) for site in sites}
