"""Quantization: values on uniform levels of few bits."""

from gossamer.methods.quantize.equalize import Equalize
from gossamer.methods.quantize.post_training import PostTraining
from gossamer.methods.quantize.rate_aware import RateAware
from gossamer.methods.quantize.rate_distortion import RateDistortion
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (Equalize, PostTraining, RateAware, RateDistortion)

__all__ = ["METHODS", "Equalize", "PostTraining", "RateAware", "RateDistortion"]
