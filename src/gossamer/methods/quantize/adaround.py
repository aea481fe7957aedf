"""AdaRound: for every weight it is learned whether it is rounded up or down, layer by layer.

Nagel, Amjad, van Baalen, Louizos and Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML
2020 (arXiv 2004.10568). Rounding to the nearest is best for each weight and not for their sum: what counts is the error
of a layer's outputs, after its activation function, on the inputs that it has once the layers before it are rounded
(equation 25). A relaxed rounding of each weight trains against that error (`rounding`) for 10,000 steps of Adam with
batches of 32; a batch norm in between is taken along, as if it was folded. Learning rate and warm-up are those of the
authors' toolkit.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from gossamer.methods.quantize.learned_rounding import LearnedRounding


class AdaRound(LearnedRounding, frozen=True, tag="quantize.adaround"):
    """Put weights on a grid of few bits and learn, layer by layer, which way each of them is rounded.

    Linear layers and convolutions learn; other weights are rounded to the nearest, and the plan says why. Inputs of
    layers are put on a grid too, as by ``quantize.post_training``. Nothing else of the model changes, and no label is
    read. A hundred steps for every layer of a ResNet-20 on 28×28 images take about a minute of one core.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"iterations": 5})
