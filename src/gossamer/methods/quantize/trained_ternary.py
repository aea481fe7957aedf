"""Trained ternary quantization: zero and two sizes, one for each sign, that train with the weights.

Zhu, Han, Mao and Dally, "Trained Ternary Quantization", ICLR 2017 (arXiv 1612.01064): real weights are divided by the
largest of their layer; those beyond a threshold t max|w|, t = 0.05 (equation 9), become W_p or -W_n, the others zero
(equation 6). A size has the sum of the gradients of its weights (equation 7), with the sign that its level has; the
gradient at the ternary weight moves the real one, times the size of its level, or times 1 at zero (equation 8). The
first and the last layer stay as they are.

The paper does not say where sizes start: here at the mean size of the weights that have them, before the division.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from torch import Tensor

from gossamer.methods.quantize.few import Ends, FewLevels
from gossamer.model import Evidence, Plan, Site, Subject, Ternary, live_weight


class TrainedTernary(FewLevels, frozen=True, tag="quantize.trained_ternary"):
    """Train with weights of three levels, of which two have sizes that train.

    Acts while its step trains; then each weight keeps its level, whose size goes on training if later steps train.
    What is shared, on a grid or does not train is left alone.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"ends": "same"})

    threshold: Annotated[
        float,
        msgspec.Meta(ge=0.0, lt=1.0, description="what is smaller becomes zero, in shares of the largest weight"),
    ] = 0.05
    ends: Ends = "float"

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Ternary:
        """Return the rule with the sizes that training starts with."""
        del subject, site
        return Ternary(self.threshold, first_sizes(weight, self.threshold))

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the ternary rule of each chosen site that trains, and its real weights divided by the largest.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        found = self.decided(subject, evidence)
        weights = {name: live_weight(subject, name) for name in found.latents}
        normalised = {name: weight / weight.abs().max() for name, weight in weights.items()}
        return found.plan(self.tag, tensors=normalised)


def first_sizes(weight: Tensor, threshold: float) -> Tensor:
    """Return the mean size of weights below minus and above the threshold, float32 (2,); of both where one has none.

    Args:
        weight: not all zero.
        threshold: in shares of the largest size, below 1.
    """
    size = weight.double().abs()
    far = size > threshold * size.max()
    sides = [size[far & (weight < 0)], size[far & (weight > 0)]]
    return torch.stack([part.mean() if len(part) else size[far].mean() for part in sides]).float()
