"""Quantization: values on uniform levels of few bits."""

from gossamer.methods.quantize.post_training import PostTraining
from gossamer.methods.quantize.rate_distortion import RateDistortion
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (PostTraining, RateDistortion)

__all__ = ["METHODS", "PostTraining", "RateDistortion"]
