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
from torch import Tensor

from gossamer.methods.quantize.few import FewLevels, ScaleStart, first_scale
from gossamer.model import Binary, Site, Subject


class BinaryConnect(FewLevels, frozen=True, tag="quantize.binary_connect"):
    """Train with weights of one bit, a fixed size with a sign.

    Acts while its step trains; then the signs are what the weights are, and they stay. Zeros of a mask stay zero
    beside the two levels. What is shared, on a grid or does not train is left alone.
    """

    clips: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"drawn": False})

    drawn: Annotated[
        bool, msgspec.Meta(description="draw signs while training, by how near a weight is to each, not the nearer one")
    ] = False
    scale: Annotated[
        ScaleStart, msgspec.Meta(description="size of a weight: the mean at the start, by Glorot's formula, or 1")
    ] = "mean"

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Binary:
        """Return the rule of a fixed scale."""
        del subject, site
        return Binary(first_scale(weight, self.scale), drawn=self.drawn)
