"""DoReFa-Net: weights on a few even levels of their tanh, inputs on a few levels between 0 and a largest value.

Zhou, Wu, Ni, Zhou, Wen and Zou, "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
Gradients", 2016 (arXiv 1606.06160). With quantize_k(r) = round((2^k - 1) r) / (2^k - 1), through which gradients pass
straight (equations 5 and 6), a weight is 2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1 (equation 9), or with one
bit its sign times the mean size of its layer's (equation 8); an input, clipped to [0, 1], is quantize_k of it (equation
11). The first and the last layer stay as they are. Gradients are not quantized here: that is about training itself.

By default levels of weights reach to the largest |tanh(w)| that the training starts with, not to 1, and inputs are
clipped where the squared error of their levels is least, so that a trained network keeps the size of its outputs; 1 is
what ``reach`` gives.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import torch
from torch import Tensor

from gossamer.methods.quantize.few import Ends, Few, FewLevels
from gossamer.model import Evidence, Grid, Site, Subject, Tanh

Bits = Annotated[int, msgspec.Meta(ge=1, le=8)]


class DoReFa(FewLevels, frozen=True, tag="quantize.dorefa"):
    """Train weights and inputs on a few even levels.

    Acts while its step trains; then each weight keeps its level. What is shared, on a grid or does not train is left
    alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"range"})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"ends": "same"})

    bits: Annotated[Bits, msgspec.Meta(description="bits of a weight")] = 2
    input_bits: Annotated[
        Bits | Literal["float"], msgspec.Meta(description="bits of an input of a layer; float leaves inputs alone")
    ] = 4
    reach: Annotated[
        Literal["measured", "one"],
        msgspec.Meta(description="how far levels reach: by the weights and inputs there are, or to 1 as in the paper"),
    ] = "measured"
    ends: Ends = "float"

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Tanh:
        """Return the rule of even levels."""
        del subject, site
        return Tanh(self.bits, weight.abs().max().tanh() if self.reach == "measured" else torch.tensor(1.0))

    def input_bits_of(self, subject: Subject, found: Few) -> Mapping[str, int]:
        """Return the bits of inputs, and 8 for the ends that have 8 themselves."""
        del subject
        if self.input_bits == "float":
            return {}
        return dict.fromkeys(found.latents, self.input_bits) | dict.fromkeys(found.grids, 8)

    def decided(self, subject: Subject, evidence: Evidence | None) -> Few:
        """Return what is decided, with inputs between 0 and 1 if levels reach to 1."""
        found = super().decided(subject, evidence)
        if self.reach == "one" and self.input_bits != "float":
            step = torch.tensor(1 / (2**self.input_bits - 1))
            unit = Grid(step, torch.tensor(0), self.input_bits, signed=False)
            found.inputs |= dict.fromkeys(found.inputs.keys() & found.latents.keys(), unit)
        return found
