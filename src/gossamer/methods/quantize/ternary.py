"""Ternary weight networks: each weight is minus a scale, zero, or the scale.

Li, Zhang and Liu, "Ternary Weight Networks", 2016 (arXiv 1605.04711): with the threshold 0.7 mean|w| (equation 6, the
best one for weights between even and Gaussian, about), weights beyond it become the mean size of those beyond it, with
their sign, and the others zero (equations 3 and 5). Both are found anew from the real weights at each forward pass;
the gradient at the ternary weight moves the real one.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
from torch import Tensor

from gossamer.methods.quantize.few import FewLevels, own_axis
from gossamer.model import Site, Subject
from gossamer.model import Ternary as Rule


class Ternary(FewLevels, frozen=True, tag="quantize.ternary"):
    """Train with weights of three levels: a size with a sign, or zero.

    Acts while its step trains; then each weight keeps its level. What is shared, on a grid or does not train is left
    alone.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"threshold": 0.7})

    threshold: Annotated[
        float, msgspec.Meta(ge=0.0, description="what is smaller becomes zero, in shares of the mean size of weights")
    ] = 0.7
    channels: Annotated[
        bool, msgspec.Meta(description="a threshold and a size for every output channel, not one for all of a weight")
    ] = False

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Rule:
        """Return the rule whose threshold and size follow the real weights."""
        del weight
        return Rule(self.threshold, axis=own_axis(subject, site) if self.channels else None)
