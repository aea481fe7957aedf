"""Sharing: many weights are one value."""

from gossamer.methods.share.kmeans import KMeans
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (KMeans,)

__all__ = ["METHODS", "KMeans"]
