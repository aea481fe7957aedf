"""Regularizing: penalties that make weights easy to compress."""

from gossamer.methods.regularize.l1 import L1
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (L1,)

__all__ = ["L1", "METHODS"]
