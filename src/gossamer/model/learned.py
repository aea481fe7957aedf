"""Grids whose step trains: learned step size quantization, by the logarithm of the step.

Esser, McKinstry, Bablani, Appuswamy and Modha, "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153): values
pass their gradients straight through rounding, unless they are beyond the last code; the step's gradient is the sum of
those of its values times round(v / s) - v / s, or times the last code beyond it (equation 3), and is scaled by
g = 1 / sqrt(N Q), for N values and a last code of Q (section 2.2). What trains here is log s, which keeps the step
positive and lets an optimizer that divides gradients by their size move steps of all lengths by like shares. Its
gradient is scaled by g / s², so that a small step of plain gradient descent moves s as that paper's does. Codes are
counted from the zero point where it is not 0.

With noise, u + U(-1/2, 1/2) stands for the rounding of u = w / s: Ballé, Laparra and Simoncelli, "End-to-end Optimized
Image Compression", ICLR 2017 (arXiv 1611.01704).
"""

import math
from typing import Any

import torch
from torch import Tensor

from gossamer.model.constraint import along, codes_range, dequantize, quantize

_FAR = 80.0  # exp of it is within float32, and so is exp of minus it


def step_of(log_step: Tensor, count: int, bits: int, *, signed: bool = True) -> Tensor:
    """Return the step, float32; the gradient of its logarithm is scaled as the module says.

    Args:
        log_step: the trained logarithm, 0-d, or 1-d for a step per channel.
        count: how many values have one step.
        bits: width of their codes.
        signed: whether codes may be negative.
    """
    most = max(codes_range(bits, signed=signed)[1], 1)
    scaled: Tensor = _Scaled.apply(log_step, 1 / math.sqrt(max(count, 1) * most))  # type: ignore[no-untyped-call]
    return positive(scaled)


def positive(log_step: Tensor) -> Tensor:
    """Return the step of a logarithm: positive and finite even where training has gone astray."""
    return log_step.clamp(-_FAR, _FAR).exp()


def learned_snap(value: Tensor, step: Tensor, zero: Tensor | None = None, **grid: Any) -> Tensor:
    """Return the nearest points of a grid to ``value``, in its dtype; gradients reach it and ``step``.

    Args:
        value: any shape.
        step: 0-d, or 1-d along the grid's axis; positive.
        zero: codes that stand for 0.0, of the shape of ``step``; None for 0.
        grid: ``bits``, and where they are not True, None and False: ``signed``, ``axis`` and ``narrow``, as in
            `quantize`.
    """
    settings = {"signed": True, "axis": None, "narrow": False} | grid
    zero = torch.zeros_like(step) if zero is None else zero
    snapped: Tensor = _LearnedSnap.apply(value, step, zero, settings)  # type: ignore[no-untyped-call]
    return snapped


def noisy(value: Tensor, step: Tensor) -> Tensor:
    """Return ``value`` with even noise between minus and plus half a ``step``, from torch's own generator."""
    return value + ((torch.rand_like(value, dtype=torch.float32) - 0.5) * step).to(value.dtype)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_step: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(log_step)
        ctx.factor = factor
        return log_step.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (log_step,) = ctx.saved_tensors
        return gradients[0] * ctx.factor * torch.exp(-2 * log_step), None


class _LearnedSnap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, step: Tensor, zero: Tensor, grid: dict[str, Any]) -> Tensor:
        codes = quantize(value, step, zero, **grid)
        ctx.save_for_backward(value, step, zero, codes)
        low, ctx.high = codes_range(grid["bits"], signed=grid["signed"])
        ctx.low, ctx.axis = low + int(grid["narrow"]), grid["axis"]
        return dequantize(codes, step, zero, ctx.axis).to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        value, step, zero, codes = ctx.saved_tensors
        offset = along(zero.float(), value.shape, ctx.axis)
        ratio = value.float() / along(step.float(), value.shape, ctx.axis)
        outside = (ratio < ctx.low - offset) | (ratio > ctx.high - offset)
        centered = codes - offset
        each = torch.where(outside, centered, ratio.neg_().add_(centered)).mul_(gradients[0])
        others = [dim for dim in range(value.ndim) if dim != ctx.axis]
        by_step = each.sum(others) if others else each
        return gradients[0].masked_fill(outside, 0.0), by_step, None, None
