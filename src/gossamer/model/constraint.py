"""Constraints: what must hold for the values of a site, as plain data.

``Mask`` keeps some values and zeroes the rest (pruning), ``Splice`` is a mask that training may take back (Guo, Yao and
Chen 2016), ``Codebook`` makes values share a few centers (Han, Mao and Dally 2016) or subvectors a few codewords (Stock
et al. 2020), ``Hash`` makes them share the buckets that a hash of their positions names (Chen et al. 2015), ``Grid``
puts values on uniform levels (Jacob et al. 2018). Tensors inside are on the CPU. On one site they act in a fixed order:
look-up of centers or buckets, then the grid, then the splice, then the mask. The grid of a hashed site is one for its
buckets, symmetric about zero. Before all that, ``Binary``, ``Ternary`` and ``Tanh`` put values on few levels while a
step trains, and so does ``Bucketed``; ``Points`` puts them on points that train (`latent`). A ``Mixture`` beside them
changes no value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gossamer.codings.hashed import places
from gossamer.errors import PlanError
from gossamer.model.codebook import Codebook
from gossamer.model.latent import Binary, Bucketed, Latent, Points, Tanh, Ternary
from gossamer.model.mixture import Mixture


def codes_range(bits: int, *, signed: bool) -> tuple[int, int]:
    """Return the smallest and the largest code of a grid."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def signed_bits(largest: int) -> int:
    """Return the least bits, at least 2, of signed codes that reach ``largest`` on both sides of zero."""
    return max(2, largest.bit_length() + 1)


def quantize(
    values: Tensor, scale: Tensor, zero: Tensor, *, bits: int, signed: bool, axis: int | None, narrow: bool = False
) -> Tensor:
    """Return the nearest codes of ``values`` as a float32 tensor of integers (half to even, clamped).

    With ``narrow`` the lowest code stays unused, so that signed codes reach equally far to both sides.
    """
    low, high = codes_range(bits, signed=signed)
    low += int(narrow)
    codes = values.detach().float() / along(scale.float(), values.shape, axis)
    offset = along(zero.float(), values.shape, axis)
    if zero.is_floating_point() and bool((zero != zero.round()).any()):
        return codes.add_(offset).round_().clamp_(low, high)
    return codes.round_().add_(offset).clamp_(low, high)


def dequantize(codes: Tensor, scale: Tensor, zero: Tensor, axis: int | None) -> Tensor:
    """Return ``(codes - zero) * scale`` in float32."""
    return (codes.float() - along(zero.float(), codes.shape, axis)) * along(scale.float(), codes.shape, axis)


def snap(
    values: Tensor, scale: Tensor, zero: Tensor, *, bits: int, signed: bool, axis: int | None, narrow: bool = False
) -> Tensor:
    """Return the nearest points of a grid to ``values``, in their dtype; ``narrow`` as in :func:`quantize`."""
    codes = quantize(values, scale, zero, bits=bits, signed=signed, axis=axis, narrow=narrow)
    return dequantize(codes, scale, zero, axis).to(values.dtype)


def along(values: Tensor, shape: torch.Size, axis: int | None) -> Tensor:
    """Return one of ``values`` for each element of an array of ``shape``, or what broadcasts to that.

    Args:
        values: 0-d, 1-d along ``axis``, or (rows, groups) for equal groups of the elements of a row; (1, buckets) for
            equal buckets of all elements.
        shape: of the array.
        axis: see :class:`Grid`.
    """
    if values.ndim == 2:
        return values.repeat_interleave(shape.numel() // max(values.numel(), 1), 1).view(shape)
    return values if axis is None else values.view([-1 if i == axis else 1 for i in range(len(shape))])


@dataclass(frozen=True, eq=False)
class Mask:
    """Zero every value where ``keep`` is false.

    Attributes:
        keep: bool tensor of the site's shape.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool:
            raise PlanError(f"Mask.keep: wanted a bool tensor, got {self.keep.dtype}")
        object.__setattr__(self, "keep", self.keep.detach().cpu())

    @cached_property
    def kept(self) -> int:
        """How many values are kept."""
        return int(self.keep.sum())


@dataclass(frozen=True, eq=False)
class Splice:
    """Zero every value where ``keep`` is false, for the time being.

    Gradients pass to what is zeroed, so it goes on training behind the zero and can come back. Lives while a step
    trains; ``settle`` makes a plain ``Mask`` of it.

    Attributes:
        keep: bool tensor of the site's shape.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool:
            raise PlanError(f"Splice.keep: wanted a bool tensor, got {self.keep.dtype}")
        object.__setattr__(self, "keep", self.keep.detach().cpu())


@dataclass(frozen=True, eq=False)
class Hash:
    """Every value is the bucket that a hash of its position names, or minus that bucket.

    Attributes:
        buckets: float tensor of shape ``(K,)``; what training moves.
        seed: of the hash, 0 to 2^32 - 1.
        shape: the site's shape.
    """

    buckets: Tensor
    seed: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.buckets.ndim != 1 or not self.buckets.is_floating_point() or not len(self.buckets):
            got = f"{self.buckets.dtype} {tuple(self.buckets.shape)}"
            raise PlanError(f"Hash.buckets: wanted a non-empty float vector, got {got}")
        if not bool(torch.isfinite(self.buckets).all()):
            raise PlanError("Hash.buckets: wanted finite values")
        if not 0 <= self.seed < 1 << 32:
            raise PlanError(f"Hash.seed: wanted 0 to 2^32 - 1, got {self.seed}")
        object.__setattr__(self, "buckets", self.buckets.detach().cpu())

    @property
    def size(self) -> int:
        """How many buckets there are."""
        return len(self.buckets)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """The bucket of each value, int32, and whether its sign is the other one, bool; both of the site's shape."""
        codes = torch.empty(self.shape, dtype=torch.int32)
        flipped = torch.empty(self.shape, dtype=torch.bool)
        flat = codes.view(-1).numpy(), flipped.view(-1).numpy()
        for some in places(self.shape, self.seed, self.size):
            flat[0][some.where], flat[1][some.where] = some.buckets, some.flipped
        return codes, flipped


@dataclass(frozen=True, eq=False)
class Grid:
    """Every value is ``(q - zero) * scale`` for an integer ``q`` of ``bits`` bits.

    Attributes:
        scale: float32 tensor, 0-d, or 1-d along ``axis``, or 2-d (rows, groups) with ``axis`` 0: the values of a row
            then come, in C order, in groups of equal size with a scale each; (1, buckets) where all values of the site
            do, whatever its rows; positive.
        zero: int32 tensor of the shape of ``scale``; the code that stands for 0.0, inside the range of codes. Where 0.0
            is none of the points, float32: where it would be, counted in codes.
        bits: width of the codes, 1 to 16.
        signed: codes in ``[-2^(bits-1), 2^(bits-1) - 1]`` if set, else in ``[0, 2^bits - 1]``.
        axis: the dimension along which scale and zero vary, or None for one pair per tensor.
        trained: whether training moves the scale; ``zero`` stays.
        noise: with ``trained``, if symmetric: in training, even noise of one step's width stands in for rounding.
    """

    scale: Tensor
    zero: Tensor
    bits: int = 8
    signed: bool = True
    axis: int | None = None
    trained: bool = False
    noise: bool = False

    def __post_init__(self) -> None:
        scale = self.scale.detach().to("cpu", torch.float32)
        low, high = codes_range(self.bits, signed=self.signed)
        zero = _codes_of(self.zero.detach().cpu(), low, high)
        if not 1 <= self.bits <= 16:
            raise PlanError(f"Grid.bits: wanted 1 to 16, got {self.bits}")
        dims = (0,) if self.axis is None else (1, 2) if self.axis == 0 else (1,)
        if scale.ndim not in dims or zero.shape != scale.shape:
            raise PlanError(
                f"Grid: wanted scale and zero {' or '.join(f'{n}-d' for n in dims)} and alike, "
                f"got {tuple(scale.shape)} and {tuple(zero.shape)} with axis {self.axis}"
            )
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise PlanError("Grid.scale: wanted finite positive values")
        whole = not zero.is_floating_point()
        if scale.numel() and whole and not low <= int(zero.min()) <= int(zero.max()) <= high:
            raise PlanError(f"Grid.zero: wanted values in [{low}, {high}]")
        if not whole and self.trained:
            raise PlanError("Grid.trained: wanted 0.0 on the grid, for only the scale trains")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero", zero)
        if self.noise and not self.trained:
            raise PlanError("Grid.noise: stands in for rounding while the scale trains, and this one does not")
        if self.noise and not self.symmetric:
            raise PlanError("Grid.noise: wanted one scale, and signed codes with 0 for zero")

    @property
    def codes_range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return codes_range(self.bits, signed=self.signed)

    @property
    def groups(self) -> int:
        """How many groups of values with a scale of their own each row has; 0 if a row has none."""
        return self.scale.shape[1] if self.scale.ndim == 2 else 0

    @property
    def symmetric(self) -> bool:
        """Whether minus a value of the grid is one too: one scale, and signed codes about zero."""
        return self.axis is None and self.signed and not bool(self.zero.any())

    def quantize(self, values: Tensor, *, narrow: bool = False) -> Tensor:
        """Return the nearest codes of ``values`` as a float32 tensor of integers; see :func:`quantize`."""
        scale, zero = self.scale.to(values.device), self.zero.to(values.device)
        return quantize(values, scale, zero, bits=self.bits, signed=self.signed, axis=self.axis, narrow=narrow)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return ``(codes - zero) * scale`` in float32, the formula the file's ``Affine`` coding uses."""
        return dequantize(codes, self.scale.to(codes.device), self.zero.to(codes.device), self.axis)

    def snap(self, values: Tensor) -> Tensor:
        """Return the nearest points of the grid, in the dtype of ``values``."""
        return self.dequantize(self.quantize(values)).to(values.dtype)


def _codes_of(zero: Tensor, low: int, high: int) -> Tensor:
    """Return the codes of 0.0 as int32, or float32 as they are where one is none."""
    if not zero.is_floating_point():
        return zero.to(torch.int32)
    if not bool(torch.isfinite(zero).all()):
        raise PlanError("Grid.zero: wanted finite values")
    codes = bool(((zero == zero.round()) & (zero >= low) & (zero <= high)).all())
    return zero.to(torch.int32 if codes else torch.float32)


Constraint = Mask | Codebook | Hash | Grid | Splice | Mixture | Binary | Ternary | Tanh | Bucketed | Points


@dataclass(frozen=True, eq=False)
class Constraints:
    """All constraints of one site; None where there is none of the kind."""

    mask: Mask | None = None
    codebook: Codebook | None = None
    grid: Grid | None = None
    splice: Splice | None = None
    hash: Hash | None = None
    mixture: Mixture | None = None
    latent: Latent | None = None

    @property
    def shared(self) -> bool:
        """Whether values are shared, by a codebook, a hash or points, so that none changes alone."""
        return self.codebook is not None or self.hash is not None or isinstance(self.latent, Points)

    @property
    def keep(self) -> Tensor | None:
        """Which values are not zeroed by a mask or a splice; None if neither is there."""
        keeps = [part.keep for part in (self.mask, self.splice) if part is not None]
        return keeps[0] if len(keeps) == 1 else keeps[0] & keeps[1] if keeps else None

    def __iter__(self) -> Iterator[Constraint]:
        """Iterate over the constraints that are there, in the order in which they act."""
        parts = (self.mixture, self.latent, self.codebook, self.hash, self.grid, self.splice, self.mask)
        return iter([part for part in parts if part is not None])

    def __bool__(self) -> bool:
        """Whether there is any constraint."""
        return any(True for _ in self)
