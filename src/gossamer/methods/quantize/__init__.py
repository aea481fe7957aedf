"""Quantization: values on uniform levels of few bits."""

from gossamer.methods.quantize.adaround import AdaRound
from gossamer.methods.quantize.bias_correction import BiasCorrection
from gossamer.methods.quantize.binary_connect import BinaryConnect
from gossamer.methods.quantize.bnn import Bnn
from gossamer.methods.quantize.brecq import Brecq
from gossamer.methods.quantize.bucketed import Bucketed
from gossamer.methods.quantize.data_free import DataFree
from gossamer.methods.quantize.differentiable import Differentiable
from gossamer.methods.quantize.dorefa import DoReFa
from gossamer.methods.quantize.equalize import Equalize
from gossamer.methods.quantize.gptq import Gptq
from gossamer.methods.quantize.half import Half
from gossamer.methods.quantize.lsq import Lsq
from gossamer.methods.quantize.mixed import Mixed
from gossamer.methods.quantize.post_training import PostTraining
from gossamer.methods.quantize.rate_aware import RateAware
from gossamer.methods.quantize.rate_distortion import RateDistortion
from gossamer.methods.quantize.smooth import Smooth
from gossamer.methods.quantize.ternary import Ternary
from gossamer.methods.quantize.trained_ternary import TrainedTernary
from gossamer.methods.quantize.xnor import Xnor
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (
    PostTraining,
    Equalize,
    Smooth,
    BiasCorrection,
    DataFree,
    AdaRound,
    Brecq,
    Gptq,
    Mixed,
    Half,
    Lsq,
    BinaryConnect,
    Ternary,
    TrainedTernary,
    Xnor,
    Bnn,
    DoReFa,
    Bucketed,
    Differentiable,
    RateAware,
    RateDistortion,
)

__all__ = [
    "METHODS",
    "AdaRound",
    "BiasCorrection",
    "BinaryConnect",
    "Bnn",
    "Brecq",
    "Bucketed",
    "DataFree",
    "Differentiable",
    "DoReFa",
    "Equalize",
    "Gptq",
    "Half",
    "Lsq",
    "Mixed",
    "PostTraining",
    "RateAware",
    "RateDistortion",
    "Smooth",
    "Ternary",
    "TrainedTernary",
    "Xnor",
]
