"""Search: how sensitive each part of a model is, and how much to take from each under a budget."""

from gossamer.search.allocate import Choice, allocate, really_left, recipe_of, spread
from gossamer.search.scan import STRENGTHS, Entry, Scan, load_scan, scan

__all__ = [
    "STRENGTHS",
    "Choice",
    "Entry",
    "Scan",
    "allocate",
    "load_scan",
    "really_left",
    "recipe_of",
    "scan",
    "spread",
]
