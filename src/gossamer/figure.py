"""Figures: numbers that say how they came about.

A number is *measured* when something was counted or timed (bytes of a file that was written, a metric on data, a
latency); it is *computed* when a formula gave it (multiply-accumulates from shapes, energy from a published table).
"""

from typing import Literal

import msgspec

Basis = Literal["measured", "computed"]


class Figure(msgspec.Struct, frozen=True):
    """One number, how it came about, and its unit (``""`` for counts and ratios)."""

    value: float | int
    basis: Basis
    unit: str = ""


def measured(value: float, unit: str = "") -> Figure:
    """Return a figure that was counted or timed."""
    return Figure(value, "measured", unit)


def computed(value: float, unit: str = "") -> Figure:
    """Return a figure that a formula gave."""
    return Figure(value, "computed", unit)
