"""SNIP: a connection matters as much as the loss feels its removal.

Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019 (arXiv
1810.02340): with a gate c_j = 1 on every weight, g_j = ∂L/∂c_j = w_j ∂L/∂w_j and the saliency is
s_j = |g_j| / Σ_k |g_k|. The paper prunes once, before any training, by the gradient of one mini-batch; here the
gradient is averaged over the batches of calibration.
"""

from typing import ClassVar

from gossamer.methods.prune.ranked import Ranked, Scores, weight_of
from gossamer.model import Evidence, Site, Subject


class Snip(Ranked, frozen=True, tag="prune.snip"):
    """Zero a share of the weights, those whose removal moves the loss least, to first order.

    Meant for one shot on a network that is about to be trained. On a trained one gradients are near zero, and what
    is left of them is mostly noise.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def scores(self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...]) -> Scores:
        """Return |w ∂L/∂w|, divided by its sum over all sites.

        Raises:
            EvidenceError: no gradients were collected.
        """
        if evidence is None:
            return {}
        felt = {s.name: (weight_of(subject, s.name) * evidence.gradient(s.name)).abs().double() for s in sites}
        total = sum(float(one.sum()) for one in felt.values())
        return {name: one / total if total > 0 else one for name, one in felt.items()}
