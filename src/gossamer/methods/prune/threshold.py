"""Pruning by threshold: weights below a multiple of their site's standard deviation become zero.

Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015 (arXiv
1506.02626): a layer's threshold is a quality parameter q, chosen by how sensitive the layer is, times the standard
deviation of its weights. Here t = q·std(W) over the weights of the site that are not zero yet, those with |w| < t go,
and biases are left alone.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from torch import Tensor

from gossamer.methods.prune.ranked import weight_of
from gossamer.model import Evidence, Mask, Method, Plan, Skip, Subject, choose

Quality = Annotated[float, msgspec.Meta(ge=0.0)]


class Threshold(Method, frozen=True, tag="prune.threshold"):
    """Zero the weights below q times the standard deviation of their site.

    How many go depends on the weights: sites whose weights are mostly small lose more. Of a normal distribution q = 1
    takes 68 %, q = 2 takes 95 %.
    """

    strength: ClassVar[str | None] = "q"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"q": 0.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"q": 0.5})

    q: Annotated[Quality, msgspec.Meta(description="threshold in standard deviations of each site's weights")]
    q_of: Annotated[
        dict[str, Quality],
        msgspec.Meta(description="q of the sites that a glob pattern names; of several that fit, the last holds"),
    ] = {}  # noqa: RUF012  msgspec gives each struct its own

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a mask for every chosen site whose q is not zero.

        Raises:
            PatternError: a pattern of names, of ``q_of`` too, matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        own = {site.name: q for pattern, q in self.q_of.items() for site in choose(subject, (pattern,), ())}
        masks, skipped = {}, []
        for site in self.chosen(subject):
            q = own.get(site.name, self.q)
            if not site.numel or q == 0:
                skipped.append(Skip(site.name, "it has no weights" if not site.numel else "its q is 0"))
            else:
                masks[site.name] = Mask(above(weight_of(subject, site.name), q))
        return Plan(self.tag, masks, skipped=tuple(skipped))


def above(weight: Tensor, q: float) -> Tensor:
    """Return where |w| is at least ``q`` times the standard deviation of the weights that are not zero."""
    alive = weight[weight != 0].double()
    threshold = q * float(alive.std(correction=0)) if alive.numel() else 0.0
    return torch.logical_and(weight.abs() >= threshold, weight != 0)
