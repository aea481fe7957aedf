"""BinaryConnect: weights of one bit in forward and backward passes, real ones behind them that gather the updates.

Courbariaux, Bengio and David, "BinaryConnect: Training Deep Neural Networks with Binary Weights during Propagations",
NIPS 2015 (arXiv 1511.00363). The network computes with the sign of each real weight, plus at zero (equation 1), or with
plus by the probability clip((w + 1) / 2, 0, 1) (equations 2 and 3); the gradient at the binary weight moves the real
one, which is clipped to [-1, 1] (algorithm 1). The sign is what is kept in the end.

Levels here are minus and plus a scale H, and all of the above is about w / H: 1 as in the paper's text, the Glorot
coefficient as in its code, or by default the mean size of the weights the training starts with, so that a trained
network without batch norms keeps the size of its outputs. A scale below 1 does what the paper does by larger learning
rates (section 2.6).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec

from gossamer.methods.quantize.few import Ends, Norms, ScaleStart, few_levels, first_scale
from gossamer.model import Binary, Evidence, Method, Plan, Subject


class BinaryConnect(Method, frozen=True, tag="quantize.binary_connect"):
    """Train with weights of one bit, a fixed size with a sign.

    Acts while its step trains; then the signs are what the weights are, and they stay. Zeros of a mask stay zero
    beside the two levels. What is shared, on a grid or does not train is left alone.
    """

    in_training: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"drawn": False})

    drawn: Annotated[
        bool, msgspec.Meta(description="draw signs while training, by how near a weight is to each, not the nearer one")
    ] = False
    scale: Annotated[
        ScaleStart, msgspec.Meta(description="size of a weight: the mean at the start, by Glorot's formula, or 1")
    ] = "mean"
    ends: Ends = "same"
    reset_norms: Norms = False

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the binary rule of each chosen site that trains; no real weight changes.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        found = few_levels(
            subject,
            self.chosen(subject),
            self.ends,
            lambda _, weight: Binary(first_scale(weight, self.scale), drawn=self.drawn),
        )
        return found.plan(self.tag, clips=True)

    def conclusion(self, subject: Subject) -> Plan | None:
        """Return the wish for statistics of batch norms measured anew, if that is set."""
        del subject
        return Plan(self.tag, reset_norms=True) if self.reset_norms else None
