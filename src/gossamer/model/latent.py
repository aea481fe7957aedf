"""Few levels for real values that train behind them: binary, ternary and tanh-normalised weights, as plain data.

The real values go on training, and what the network computes with is a function of them that has few values. Gradients
pass to the real ones as each paper says:

- ``Binary``: BinaryConnect (Courbariaux, Bengio and David, NIPS 2015, arXiv 1511.00363) with a fixed scale, XNOR-Net
  (Rastegari, Ordonez, Redmon and Farhadi, ECCV 2016, arXiv 1603.05279) where the scale is the mean size.
- ``Ternary``: TWN (Li, Zhang and Liu, 2016, arXiv 1605.04711), and TTQ (Zhu, Han, Mao and Dally, ICLR 2017, arXiv
  1612.01064) where two scales train.
- ``Tanh``: DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160).
- ``Bucketed`` and ``Points``: quantized distillation and differentiable quantization (Polino, Pascanu and Alistarh,
  ICLR 2018, arXiv 1802.05668).

They live while a step trains; ``settle`` makes a ``Codebook`` of the levels, and a ``Grid`` of those of ``Bucketed``.
``Points`` stay: there the real values do not train, but the points do, as the centers of a codebook.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import PlanError


@dataclass(frozen=True, eq=False)
class Binary:
    """Every value is a scale or minus it: the sign of the real value behind it, plus at zero.

    Attributes:
        scale: float32, 0-d, positive; None for the mean size of the real values, which then has a gradient too.
        axis: without ``scale``: 0 for a mean of each index of the first dimension, or None for one of all values.
        drawn: in training, plus with the probability clip((w / scale + 1) / 2, 0, 1) in place of the sign.
    """

    scale: Tensor | None = None
    axis: int | None = None
    drawn: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None:
            object.__setattr__(self, "scale", _positive("Binary.scale", self.scale))
        if self.axis not in {None, 0} or (self.axis is not None and self.scale is not None):
            raise PlanError("Binary.axis: wanted 0 without a scale, or None")
        if self.drawn and self.scale is None:
            raise PlanError("Binary.drawn: wanted a fixed scale")


@dataclass(frozen=True, eq=False)
class Ternary:
    """Every value is zero, or one of two scales where the real value behind it is beyond a threshold.

    Attributes:
        threshold: in shares of the mean size of the real values; of the largest size where scales train.
        scales: float32 (2,): sizes of the negative and of the positive level, which train; None for the mean size of
            the real values beyond the threshold, the same for both.
        axis: without ``scales``: 0 for a threshold and a mean of each index of the first dimension, or None.
    """

    threshold: float
    scales: Tensor | None = None
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.scales is not None:
            object.__setattr__(self, "scales", _finite("Ternary.scales", self.scales, (2,)))
        if not self.threshold >= 0.0:
            raise PlanError(f"Ternary.threshold: wanted at least 0, got {self.threshold}")
        if self.axis not in {None, 0} or (self.axis is not None and self.scales is not None):
            raise PlanError("Ternary.axis: wanted 0 without scales, or None")


@dataclass(frozen=True, eq=False)
class Tanh:
    """Every value is one of 2^bits even levels from minus ``scale`` to ``scale``, none of them zero.

    The level is the nearest to tanh(w) over the largest size of that; with one bit it is the sign of w times the mean
    size of all w.

    Attributes:
        bits: 1 to 8.
        scale: float32, 0-d, positive; not used with one bit.
    """

    bits: int
    scale: Tensor
    axis: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _positive("Tanh.scale", self.scale))
        if not 1 <= self.bits <= 8:
            raise PlanError(f"Tanh.bits: wanted 1 to 8, got {self.bits}")


@dataclass(frozen=True, eq=False)
class Bucketed:
    """Every value is the nearest of 2^bits even levels from the smallest to the largest value of its bucket.

    A bucket is some consecutive values in C order; see `buckets`.

    Attributes:
        bits: 1 to 8.
        size: values of a bucket, about; None for one bucket.
        drawn: in training, one of the two levels beside a value by how near it is to each, not the nearer.
    """

    bits: int
    size: int | None = None
    drawn: bool = False
    axis: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise PlanError(f"Bucketed.bits: wanted 1 to 8, got {self.bits}")
        _want_size("Bucketed.size", self.size)


@dataclass(frozen=True, eq=False)
class Points:
    """Every value is the nearest of a few points, counted from the smallest value of its bucket to the largest.

    The nearest is found anew at every look, for the points train and the values behind them do not.

    Attributes:
        points: float32 (K,), in any order: 0 is the smallest value of a bucket, 1 the largest.
        size: as of :class:`Bucketed`.
    """

    points: Tensor
    size: int | None = None
    axis: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.points.ndim != 1 or not 2 <= len(self.points) <= 256:
            raise PlanError(f"Points.points: wanted a vector of 2 to 256, got {tuple(self.points.shape)}")
        object.__setattr__(self, "points", _finite("Points.points", self.points, tuple(self.points.shape)))
        _want_size("Points.size", self.size)


Latent = Binary | Ternary | Tanh | Bucketed | Points


def level_count(latent: Latent) -> int:
    """Return how many levels a value may be on."""
    match latent:
        case Binary():
            return 2
        case Ternary():
            return 3
        case Tanh() | Bucketed():
            return int(2**latent.bits)
        case Points():
            return len(latent.points)


def numbers_of(latent: Latent) -> Tensor | None:
    """Return the numbers of a rule, None if it has none."""
    match latent:
        case Ternary():
            return latent.scales
        case Points():
            return latent.points
        case Bucketed():
            return None
        case _:
            return latent.scale


def latent_to_dict(latent: Latent, at: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return ``latent`` as JSON-able data; its numbers go to ``arrays`` under names that begin with ``at``."""
    numbers = numbers_of(latent)
    if numbers is not None:
        arrays[f"{at}/scale"] = numbers.numpy()
    match latent:
        case Binary():
            return {"kind": "binary", "axis": latent.axis, "drawn": latent.drawn}
        case Ternary():
            return {"kind": "ternary", "axis": latent.axis, "threshold": latent.threshold}
        case Tanh():
            return {"kind": "tanh", "bits": latent.bits}
        case Bucketed():
            return {"kind": "bucketed", "bits": latent.bits, "size": latent.size, "drawn": latent.drawn}
        case Points():
            return {"kind": "points", "size": latent.size}


def latent_from_dict(data: Mapping[str, Any], at: str, arrays: Mapping[str, np.ndarray]) -> Latent:
    """Return what :func:`latent_to_dict` wrote.

    Raises:
        PlanError: a number is out of range, or one is missing.
    """
    stored = arrays.get(f"{at}/scale")
    numbers = None if stored is None else torch.from_numpy(np.array(stored))
    if data["kind"] == "binary":
        return Binary(numbers, data["axis"], data["drawn"])
    if data["kind"] == "ternary":
        return Ternary(data["threshold"], numbers, data["axis"])
    if data["kind"] == "bucketed":
        return Bucketed(data["bits"], data["size"], data["drawn"])
    if numbers is None:
        raise PlanError(f"saved plan: no scale at {at}")
    return Points(numbers, data["size"]) if data["kind"] == "points" else Tanh(data["bits"], numbers)


def _finite(what: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(values.shape) != shape or not bool(torch.isfinite(values).all()):
        raise PlanError(f"{what}: wanted finite values of shape {shape}, got {tuple(values.shape)}")
    return values.detach().to("cpu", torch.float32)


def _want_size(what: str, size: int | None) -> None:
    if size is not None and size < 2:
        raise PlanError(f"{what}: wanted at least 2, got {size}")


def _positive(what: str, value: Tensor) -> Tensor:
    found = _finite(what, value, ())
    if not float(found) > 0:
        raise PlanError(f"{what}: wanted a positive number, got {float(found)}")
    return found
