"""Differentiable quantization: the points that weights are put on train, and the weights do not.

Polino, Pascanu and Alistarh, "Model compression via distillation and quantization", ICLR 2018 (arXiv 1802.05668),
section 4 and algorithm 2: each 256 consecutive weights are scaled between their smallest and their largest; every
weight takes the nearest of its layer's points, found anew at each step, and is scaled back. A point's gradient is the
sum of those of its weights, each times the range of its bucket. Points start at even quantiles of the scaled weights,
the first at the smallest, the last at the largest. That the assignment changes is what tells it from trained weight
sharing (`share.kmeans`), which has no buckets either.

What differs: they quantize biases and batch norms as well, which stay real here and train along; and they may share
points out among layers by the norms of gradients, while here every layer has as many.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import torch
from torch import Tensor

from gossamer.methods.quantize.bucketed import InBuckets
from gossamer.model import Points, Site, Subject, scaled


class Differentiable(InBuckets, frozen=True, tag="quantize.differentiable"):
    """Train the few points that the weights of a site are on.

    Weights themselves stand still from here on; points go on training if later steps train. What is shared, on a grid
    or does not train is left alone.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"bits": 4})

    bits: Annotated[int, msgspec.Meta(ge=1, le=8, description="a site has 2^bits points")] = 4
    start: Annotated[
        Literal["quantiles", "even"],
        msgspec.Meta(description="where points start: at even quantiles of the scaled weights, or at even distances"),
    ] = "quantiles"

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Points:
        """Return the rule with the points that training starts with."""
        held = subject.constraints.get(site.name)
        if self.start == "even":
            return Points(torch.linspace(0, 1, 2**self.bits), self.size)
        found = scaled(weight, self.size)
        keep = None if held is None else held.keep
        return Points(quantiles(found if keep is None else found[keep], 2**self.bits), self.size)


def quantiles(values: Tensor, count: int) -> Tensor:
    """Return ``count`` even quantiles of ``values``, float32, from the smallest to the largest.

    Args:
        values: at least one, any shape.
        count: at least 2.
    """
    ordered = values.flatten().double().sort().values
    place = torch.linspace(0, len(ordered) - 1, count, dtype=torch.float64)
    below = place.floor().long()
    above = (below + 1).clamp_max(len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below).float()
