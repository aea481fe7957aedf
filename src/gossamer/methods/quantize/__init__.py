"""Quantization: values on uniform levels of few bits."""

from gossamer.methods.quantize.post_training import PostTraining
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (PostTraining,)

__all__ = ["METHODS", "PostTraining"]
