"""Quantization: values on uniform levels of few bits."""

from gossamer.methods.quantize.bias_correction import BiasCorrection
from gossamer.methods.quantize.data_free import DataFree
from gossamer.methods.quantize.equalize import Equalize
from gossamer.methods.quantize.post_training import PostTraining
from gossamer.methods.quantize.rate_aware import RateAware
from gossamer.methods.quantize.rate_distortion import RateDistortion
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (BiasCorrection, DataFree, Equalize, PostTraining, RateAware, RateDistortion)

__all__ = ["METHODS", "BiasCorrection", "DataFree", "Equalize", "PostTraining", "RateAware", "RateDistortion"]
