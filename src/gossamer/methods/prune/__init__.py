"""Pruning: weights become zero and stay zero."""

from gossamer.methods.prune.magnitude import Magnitude
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (Magnitude,)

__all__ = ["METHODS", "Magnitude"]
