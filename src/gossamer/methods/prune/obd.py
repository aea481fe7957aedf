"""Optimal brain damage: a weight's saliency is the rise of the loss by a diagonal second-order model.

LeCun, Denker and Solla, "Optimal Brain Damage", NIPS 1989: s_q = ½ h_qq w_q². The diagonal of the Hessian is replaced
by that of the empirical Fisher information, the mean of squared gradients, as in Theis et al., "Faster gaze prediction
with dense networks and Fisher pruning", 2018 (arXiv 1801.05787).
"""

from typing import ClassVar

from gossamer.methods.prune.ranked import Ranked, Scores, weight_of
from gossamer.model import Evidence, Site, Subject


class Obd(Ranked, frozen=True, tag="prune.obd"):
    """Zero a share of the weights, those of the least saliency ½ h w².

    The gradients squared are those of whole calibration batches; smaller batches tell more.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def scores(self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...]) -> Scores:
        """Return half the squared weight times the Fisher diagonal.

        Raises:
            EvidenceError: no gradients were collected.
        """
        if evidence is None:
            return {}
        return {s.name: 0.5 * evidence.fisher(s.name).double() * weight_of(subject, s.name).square() for s in sites}
