"""Sharing: many weights are one value."""

from gossamer.methods.share.hashed import Hashed
from gossamer.methods.share.kmeans import KMeans
from gossamer.methods.share.product import Product
from gossamer.methods.share.soft import Soft
from gossamer.model import Method

METHODS: tuple[type[Method], ...] = (KMeans, Hashed, Product, Soft)

__all__ = ["METHODS", "Hashed", "KMeans", "Product", "Soft"]
