"""Pruning: weights become zero and stay zero."""

from gossamer.methods.prune.magnitude import Magnitude
from gossamer.methods.prune.units import Units
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (Magnitude, Units)

__all__ = ["METHODS", "Magnitude", "Units"]
