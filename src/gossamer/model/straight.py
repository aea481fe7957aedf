"""Gradients that are not the function's own: straight through rounding and masks, or a mean over a center's members.

Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons", 2013 (arXiv 1308.3432);
for codewords, Stock et al. 2020 (arXiv 1907.05686).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gossamer.model.constraint import along, codes_range, snap


class _Snap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grid: Mapping[str, Any], clips: bool) -> Tensor:  # noqa: FBT001  # by torch
        if clips:
            zero, scale = (along(grid[name].float(), value.ndim, grid["axis"]) for name in ("zero", "scale"))
            low, high = codes_range(grid["bits"], signed=grid["signed"])
            ctx.outside = (value < (low - zero) * scale) | (value > (high - zero) * scale)
        ctx.clips = clips
        return snap(value, **grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].masked_fill(ctx.outside, 0.0) if ctx.clips else gradients[0], None, None


class _Members(torch.autograd.Function):
    """Look-up of centers whose gradient is the mean over their members."""

    @staticmethod
    def forward(ctx: Any, centers: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.size = len(centers)
        return centers.index_select(0, codes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (codes,) = ctx.saved_tensors
        total = gradients[0].new_zeros(ctx.size).index_add_(0, codes, gradients[0])
        return total / codes.bincount(minlength=ctx.size).clamp_min(1), None


class _PassZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, keep: Tensor) -> Tensor:  # noqa: ARG004
        return torch.where(keep, value, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def straight_through_snap(value: Tensor, *, clips: bool = False, **grid: Any) -> Tensor:
    """Return `snap` of ``value`` (same arguments); the gradient passes as if nothing happened.

    With ``clips`` it does not pass where ``value`` is beyond the first or the last point of the grid.
    """
    snapped: Tensor = _Snap.apply(value, grid, clips)  # type: ignore[no-untyped-call]
    return snapped


def members(centers: Tensor, codes: Tensor) -> Tensor:
    """Return ``centers`` at ``codes``; a center's gradient is the mean of those of its members."""
    found: Tensor = _Members.apply(centers, codes)  # type: ignore[no-untyped-call]
    return found


def masked_straight_through(value: Tensor, keep: Tensor) -> Tensor:
    """Return ``value``, zero where ``keep`` is false; the gradient passes as if nothing happened."""
    found: Tensor = _PassZero.apply(value, keep)  # type: ignore[no-untyped-call]
    return found
