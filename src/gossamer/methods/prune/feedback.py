"""Dynamic pruning with feedback: the mask is chosen anew from dense weights that go on training behind it.

Lin, Stich, Barba, Dmitriev and Jaggi, "Dynamic Model Pruning with Feedback", ICLR 2020 (arXiv 2006.07253): the gradient
is taken at the pruned weights and applied to the dense ones (algorithm 1), so that a weight pruned too early comes
back. The paper ranks by magnitude over the whole network and lets the share of zeros follow the cubic schedule of Zhu
and Gupta; it chooses the mask anew every 16 steps, which is the schedule's ``every`` here.
"""

from dataclasses import replace
from typing import ClassVar

from gossamer.methods.prune.magnitude import Magnitude
from gossamer.methods.prune.ranked import Scores
from gossamer.model import Evidence, Mask, Plan, Site, Splice, Subject


class Feedback(Magnitude, frozen=True, tag="prune.feedback"):
    """Zero the weights smallest in absolute value, and bring back those that outgrow others while training.

    Needs a training in the same step, and a schedule to choose again; what is zero when the training ends stays zero.
    Without a training it is ``prune.magnitude``. Weights behind the mask drift with the learning rate: the paper trains
    by SGD; a high rate of AdamW has driven a recurrent network apart.
    """

    revisits: ClassVar[bool] = True

    def scores(self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...]) -> Scores:
        """Return the absolute values, or why nothing trains behind a mask."""
        held = subject.constraints
        shared = {site.name for site in sites if site.name in held and held[site.name].shared}
        free = tuple(site for site in sites if site.name not in shared)
        return {
            **super().scores(subject, evidence, free),
            **dict.fromkeys(shared, "its values are shared, so they do not grow one by one"),
        }

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a mask that can be taken back for every chosen site.

        Raises:
            PatternError: a pattern of names matches no site.
            ModelError: a weight is not finite.
        """
        plan = super().plan(subject, evidence)
        return replace(
            plan,
            constraints={
                site: Splice(part.keep) for site in plan.constraints for part in plan.on(site) if isinstance(part, Mask)
            },
        )
