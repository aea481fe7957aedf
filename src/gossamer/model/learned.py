"""Grids whose step trains: learned step size quantization, by the logarithm of the step.

Esser, McKinstry, Bablani, Appuswamy and Modha, "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153): weights
pass their gradients straight through rounding, unless they are beyond the last code; the step's gradient is the sum of
those of its weights times round(w / s) - w / s, or times the last code beyond it (equation 3), and is scaled by
g = 1 / sqrt(N Q), for N weights and a last code of Q (section 2.2). What trains here is log s, which keeps the step
positive and lets an optimizer that divides gradients by their size move steps of all lengths by like shares. Its
gradient is scaled by g / s², so that a small step of plain gradient descent moves s as that paper's does.

With noise, u + U(-1/2, 1/2) stands for the rounding of u = w / s: Ballé, Laparra and Simoncelli, "End-to-end Optimized
Image Compression", ICLR 2017 (arXiv 1611.01704).
"""

import math
from typing import Any

import torch
from torch import Tensor

from gossamer.model.constraint import codes_range, dequantize, quantize


def step_of(log_step: Tensor, count: int, bits: int) -> Tensor:
    """Return the step, float32; the gradient of its logarithm is scaled as the module says.

    Args:
        log_step: the trained logarithm, 0-d.
        count: how many values have this step.
        bits: width of their codes.
    """
    most = max(codes_range(bits, signed=True)[1], 1)
    step: Tensor = _Scaled.apply(log_step, 1 / math.sqrt(max(count, 1) * most)).exp()  # type: ignore[no-untyped-call]
    return step


def learned_snap(value: Tensor, step: Tensor, *, bits: int, narrow: bool = False) -> Tensor:
    """Return the nearest multiples of ``step`` to ``value``, in its dtype; gradients reach both.

    Args:
        value: any shape.
        step: 0-d, positive.
        bits: width of the signed codes; values beyond the last one become it.
        narrow: whether the lowest code stays unused.
    """
    snapped: Tensor = _LearnedSnap.apply(value, step, bits, narrow)  # type: ignore[no-untyped-call]
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
    def forward(ctx: Any, value: Tensor, step: Tensor, bits: int, narrow: bool) -> Tensor:  # noqa: FBT001  # by torch
        zero = torch.zeros_like(step)
        codes = quantize(value, step, zero, bits=bits, signed=True, axis=None, narrow=narrow)
        ctx.save_for_backward(value, step, codes)
        low, ctx.high = codes_range(bits, signed=True)
        ctx.low = low + int(narrow)
        return dequantize(codes, step, zero, None).to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        value, step, codes = ctx.saved_tensors
        ratio = value.float() / step
        outside = (ratio < ctx.low) | (ratio > ctx.high)
        by_step = torch.where(outside, codes, ratio.neg_().add_(codes)).mul_(gradients[0]).sum()
        return gradients[0].masked_fill(outside, 0.0), by_step, None, None
