"""Factorizing: one layer becomes a product of thinner ones."""

from gossamer.methods.factorize.svd import Svd
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (Svd,)

__all__ = ["METHODS", "Svd"]
