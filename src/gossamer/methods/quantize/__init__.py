"""Quantization: values on uniform levels of few bits."""

from gossamer.methods.quantize.half import Half
from gossamer.methods.quantize.post_training import PostTraining
from gossamer.methods.quantize.rate_aware import RateAware
from gossamer.methods.quantize.rate_distortion import RateDistortion
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (PostTraining, RateAware, RateDistortion, Half)

__all__ = ["METHODS", "Half", "PostTraining", "RateAware", "RateDistortion"]
