"""XNOR-Net: weights of one bit with a scale for every filter, and if asked inputs of one bit.

Rastegari, Ordonez, Redmon and Farhadi, "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
ECCV 2016 (arXiv 1603.05279): a filter W becomes alpha sign(W) with alpha = mean|W|, which is nearest to it (equations 5
and 6); alpha is found anew at each forward pass, and gradients go through it as well as through the sign, there where
|w| is 1 at most (section 3.1). The first and the last layer stay as they are.

Inputs have two levels, 0 and s, since a file holds grids that have 0 on a level. That is s / 2 (sign(x - s / 2) + 1):
the sign of the paper for a shifted input, whose constant part the bias or batch norm after the layer takes up.
Gradients pass where x is between 0 and s. It fits layers that read what a ReLU made; s is found once, at the least
squared error. The scales K of inputs, place by place, are left out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
from torch import Tensor

from gossamer.methods.quantize.few import Ends, Few, FewLevels, own_axis
from gossamer.model import Binary, Site, Subject


class Xnor(FewLevels, frozen=True, tag="quantize.xnor"):
    """Train with weights of one bit that have the mean size of their filter.

    Acts while its step trains; then the signs are what the weights are, and the sizes go on training if later steps
    train. What is shared, on a grid or does not train is left alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"range"})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"ends": "same", "inputs": True})

    inputs: Annotated[bool, msgspec.Meta(description="put inputs of layers on one bit too")] = False
    ends: Ends = "float"

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Binary:
        """Return the rule with a scale for every filter."""
        del weight
        return Binary(axis=own_axis(subject, site))

    def input_bits_of(self, subject: Subject, found: Few) -> Mapping[str, int]:
        """Return one bit, and 8 for the ends that have 8 themselves, if inputs are asked for."""
        del subject
        return dict.fromkeys(found.latents, 1) | dict.fromkeys(found.grids, 8) if self.inputs else {}
