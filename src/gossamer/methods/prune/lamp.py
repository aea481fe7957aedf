"""LAMP: magnitudes made comparable between layers by what stands above them in their own.

Lee, Park, Mo, Ahn and Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021 (arXiv 2010.07611):
with the weights of a layer sorted by magnitude, score(u) = W[u]² / Σ_{v ≥ u} W[v]². The order within a
layer is that of magnitude; the largest weight of each layer scores 1, so no layer is emptied before all others are.
"""

import torch
from torch import Tensor

from gossamer.methods.prune.ranked import Ranked, Scores, weight_of
from gossamer.model import Evidence, Site, Subject


class Lamp(Ranked, frozen=True, tag="prune.lamp"):
    """Zero a share of the weights, those with the lowest layer-adaptive magnitude.

    Ranked globally, it finds by itself how much each layer can lose. Weights that are zero already count towards the
    share and stay zero.
    """

    def scores(self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...]) -> Scores:
        """Return squared weights over the sum of those that are not smaller."""
        del evidence
        return {site.name: lamp_scores(weight_of(subject, site.name)) for site in sites}


def lamp_scores(weight: Tensor) -> Tensor:
    """Return the score of every weight of one layer, in float64; of equal weights the earlier has the lower."""
    squares = weight.double().flatten().square()
    rising, order = torch.sort(squares, stable=True)
    above = rising.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = torch.where(above > 0, rising / above, 0)
    return scores.reshape(weight.shape)
