"""How much it matters where each value of a site moves: the diagonal of a Hessian, from evidence.

Choi, El-Khamy and Lee, "Towards the Limit of Network Quantization", ICLR 2017 (arXiv 1612.01543): to second order,
moving weights from w to c raises the loss by half the sum of ``h (w - c)²``, so k-means weighs every weight with its
``h``, the diagonal of the Hessian. It is taken for the squared error of the layer's outputs (the second moment of what
the weight multiplies) or for the loss, where the mean of squared gradients stands for it (Fisher, as in Theis et al.,
2018, arXiv 1801.05787). Only the latter compares weights of different layers.
"""

from typing import Literal

import torch
from torch import Tensor

from gossamer.errors import EvidenceError, ModelError
from gossamer.model import Evidence, Site

Weigh = Literal["none", "second_moment", "fisher"]
NEEDS: dict[Weigh, frozenset[str]] = {
    "none": frozenset(),
    "second_moment": frozenset({"second_moment"}),
    "fisher": frozenset({"gradient"}),
}
LEAST = 1e-6
"""Times the mean: the weight of a value that does not matter at all, so that it goes to the center it is nearest to."""


def importance(evidence: Evidence | None, site: Site, weigh: Weigh) -> Tensor | str | None:
    """Return how much each value of ``site`` matters, or why that is not known; None if all matter alike.

    Returns:
        float32, not negative, of the site's shape, on the CPU.

    Raises:
        EvidenceError: what ``weigh`` needs was not collected.
        ModelError: a number is not finite.
    """
    if weigh == "none":
        return None
    if evidence is None:
        raise EvidenceError(
            f"share.kmeans was given no evidence to weigh by {weigh}", hint=f"calibrate with needs={set(NEEDS[weigh])}"
        )
    found = _second_moment(evidence, site) if weigh == "second_moment" else _fisher(evidence, site)
    if not isinstance(found, str) and not bool(torch.isfinite(found).all()):
        raise ModelError(f"{site.name}: its {weigh} is not finite, so its values cannot be weighed by it")
    return found


def _second_moment(evidence: Evidence, site: Site) -> Tensor | str:
    """Return the sum of squares of what each value multiplies."""
    if site.name in evidence.unread:
        return f"its inputs are not known: {evidence.unread[site.name]}"
    squares = torch.zeros(site.shape)
    for moment in evidence.second_moment(site.name):
        matrix = moment.layout.matrix(squares)
        squares = moment.layout.put(squares, matrix + moment.diagonal.to(matrix))
    return squares


def _fisher(evidence: Evidence, site: Site) -> Tensor | str:
    """Return the mean of the squared gradient of each value."""
    if evidence.has("gradient") and site.name not in evidence.fishers:
        return "no gradient of it was seen"
    return evidence.fisher(site.name).float().cpu()


def positive(weights: Tensor) -> Tensor:
    """Return ``weights`` in float64, none of them less than :data:`LEAST` of the mean; ones if all are zero."""
    exact = weights.double()
    mean = float(exact.mean())
    return exact.clamp_min(LEAST * mean) if mean > 0 else torch.ones_like(exact)
