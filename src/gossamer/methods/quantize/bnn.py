"""Binarized neural networks: weights and inputs of one bit each.

Hubara, Courbariaux, Soudry, El-Yaniv and Bengio, "Binarized Neural Networks", NIPS 2016 (arXiv 1602.02830). Weights are
the sign of real ones, which are clipped to [-1, 1] after each update (algorithm 1); activations are signs too, and
gradients pass through a sign where its argument is between -1 and 1 (equation 4). The inputs of the first layer have 8
bits (section 2.6).

Levels of weights are minus and plus the mean size of those that training starts with, and all of the above is about
weights over that size, as for ``quantize.binary_connect``. Inputs have the levels 0 and s, since a file holds grids
that have 0 on a level: s / 2 (sign(x - s / 2) + 1), whose constant part the bias or batch norm after the layer takes
up, with gradients where x is between 0 and s. It fits layers that read what a ReLU made; s is found once, at the least
squared error. Batch norms and updates by shifts are arithmetic of that paper's training and are not done here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from gossamer.methods.quantize.few import Few, FewLevels, first_scale
from gossamer.methods.quantize.norms import Norms
from gossamer.methods.quantize.treatable import first_of
from gossamer.model import Binary, Site, Subject


class Bnn(FewLevels, frozen=True, tag="quantize.bnn"):
    """Train with weights and inputs of one bit.

    Acts while its step trains; then the signs are what the weights are, and they stay. Inputs that take both signs,
    as those of layers that follow no ReLU, stay as they are; those of the first layer have 8 bits. What is shared, on
    a grid or does not train is left alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"range"})
    clips: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"ends": "same"})

    reset_norms: Norms = True

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Binary:
        """Return the rule whose scale is the mean size."""
        del subject, site
        return Binary(first_scale(weight, "mean"))

    def input_bits_of(self, subject: Subject, found: Few) -> Mapping[str, int]:
        """Return one bit, and 8 for the first layer and for the ends that have 8 themselves."""
        first = first_of(subject)
        return {name: 8 if name in first else 1 for name in found.latents} | dict.fromkeys(found.grids, 8)
