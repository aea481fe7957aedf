"""Quantization: values on uniform levels of few bits."""

from gossamer.methods.quantize.adaround import AdaRound
from gossamer.methods.quantize.brecq import Brecq
from gossamer.methods.quantize.post_training import PostTraining
from gossamer.methods.quantize.rate_aware import RateAware
from gossamer.methods.quantize.rate_distortion import RateDistortion
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (AdaRound, Brecq, PostTraining, RateAware, RateDistortion)

__all__ = ["METHODS", "AdaRound", "Brecq", "PostTraining", "RateAware", "RateDistortion"]
