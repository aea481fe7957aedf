"""Figures: numbers that say how they came about.

A number is *measured* when something was counted or timed (bytes of a file that was written, a metric on data, a
latency); it is *computed* when a formula gave it (multiply-accumulates from shapes, energy from a published table).
"""

import math
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")

Basis = Literal["measured", "computed"]

Counted = Literal["bytes", "macs", "milliseconds"]
"""What a budget is of: bytes of all coded tensors, multiply-accumulates of one pass, or time of one pass."""


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


def encode(value: Any) -> bytes:
    """Return ``value`` as JSON from which :func:`decode` makes it again, numbers that are not finite included.

    JSON has no form for those: they are written as the strings ``nan``, ``inf`` and ``-inf``.
    """
    return msgspec.json.encode(_spelled(msgspec.to_builtins(value)))


def decode(data: bytes, kind: type[T]) -> T:
    """Return the value of type ``kind`` that :func:`encode` wrote.

    Raises:
        msgspec.MsgspecError: it is not JSON, or not of that type.
    """
    return msgspec.json.decode(data, type=kind, strict=False)


def _spelled(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _spelled(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_spelled(value) for value in plain]
    return str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain
