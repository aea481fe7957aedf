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
            zero, scale = (along(grid[name].float(), value.shape, grid["axis"]) for name in ("zero", "scale"))
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


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, real: Tensor, value: Tensor, within: Tensor | None) -> Tensor:  # noqa: ARG004
        ctx.within = within
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] if ctx.within is None else gradients[0] * ctx.within, None, None


class _TrainedTernary(torch.autograd.Function):
    """Trained ternary quantization: Zhu et al. 2017 (arXiv 1612.01064), equations 6 to 8."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, scales: Tensor, threshold: Tensor) -> Tensor:
        above, below = real > threshold, real < -threshold
        ctx.save_for_backward(above, below, scales)
        return torch.where(above, scales[1], torch.where(below, -scales[0], 0.0))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        above, below, scales = ctx.saved_tensors
        by_scale = torch.stack([-(gradients[0] * below).sum(), (gradients[0] * above).sum()])
        return gradients[0] * torch.where(above, scales[1], torch.where(below, scales[0], 1.0)), by_scale, None


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


def straight_through(real: Tensor, value: Tensor, within: Tensor | None = None) -> Tensor:
    """Return ``value``; its gradient passes to ``real`` as if they were one, or only where ``within`` is true."""
    found: Tensor = _Through.apply(real, value, within)  # type: ignore[no-untyped-call]
    return found


def trained_ternary(real: Tensor, scales: Tensor, threshold: Tensor) -> Tensor:
    """Return ``scales[1]`` where ``real`` is above ``threshold``, ``-scales[0]`` where it is below minus it, else 0.

    A scale gets the gradients of its level; a real value that of its level, times the scale unless the level is 0.
    """
    found: Tensor = _TrainedTernary.apply(real, scales, threshold)  # type: ignore[no-untyped-call]
    return found
