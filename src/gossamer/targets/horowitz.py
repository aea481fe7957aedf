"""Modelled energy of one run, from operation and memory counts.

The model uses the 45 nm, 0.9 V table of Horowitz, "Computing's Energy Problem", ISSCC 2014: a multiply-accumulate is a
multiplication and an addition of its type (8-bit products are added in 32 bits); each weight is fetched once from DRAM
and each activation is read and written in an on-chip memory of 32 KB. Real machines differ in scale; the use of the
model is to compare two networks.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from gossamer.figure import Figure, computed
from gossamer.targets.work import Work

PICOJOULES: Final = {
    "int8 add": 0.03,
    "int32 add": 0.1,
    "fp16 add": 0.4,
    "fp32 add": 0.9,
    "int8 multiply": 0.2,
    "int32 multiply": 3.1,
    "fp16 multiply": 1.1,
    "fp32 multiply": 3.7,
    "64 bits from SRAM of 8 KB": 10.0,
    "64 bits from SRAM of 32 KB": 20.0,
    "64 bits from SRAM of 1 MB": 100.0,
    "64 bits from DRAM": 1300.0,
}
"""The table, in picojoules; the DRAM entry is the lower end of its range of 1300 to 2600."""

_PER_MAC: Final = {
    8: PICOJOULES["int8 multiply"] + PICOJOULES["int32 add"],
    16: PICOJOULES["fp16 multiply"] + PICOJOULES["fp16 add"],
    32: PICOJOULES["fp32 multiply"] + PICOJOULES["fp32 add"],
}
_PER_BYTE_DRAM: Final = PICOJOULES["64 bits from DRAM"] / 8
_PER_BYTE_SRAM: Final = PICOJOULES["64 bits from SRAM of 32 KB"] / 8


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Modelled energy of one run, in joules, all computed.

    Attributes:
        arithmetic: multiply-accumulates.
        weights: fetching every weight once from DRAM.
        activations: reading and writing activations on chip.
    """

    arithmetic: Figure
    weights: Figure
    activations: Figure

    @property
    def total(self) -> Figure:
        """The sum of the parts."""
        return computed(self.arithmetic.value + self.weights.value + self.activations.value, "J")


def energy(works: Iterable[Work]) -> Energy:
    """Return the modelled energy of ``works``. Operands of 64 bits are counted as 32: the table ends there."""
    arithmetic = weights = activations = 0.0
    for work in works:
        arithmetic += (work.macs or 0) * _PER_MAC[min(work.bits, 32)]
        weights += work.weight_bytes * _PER_BYTE_DRAM
        activations += work.activation_bytes * _PER_BYTE_SRAM
    return Energy(
        arithmetic=computed(arithmetic * 1e-12, "J"),
        weights=computed(weights * 1e-12, "J"),
        activations=computed(activations * 1e-12, "J"),
    )
