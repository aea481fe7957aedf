"""Distilling: the compressed model learns from the model before compression."""

from gossamer.methods.distill.logits import LogitPenalty, Logits
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (Logits,)

__all__ = ["METHODS", "LogitPenalty", "Logits"]
