"""Levels and points in buckets: every few consecutive weights have a smallest and a largest value of their own.

Polino, Pascanu and Alistarh, "Model compression via distillation and quantization", ICLR 2018 (arXiv 1802.05668). A
bucket with the smallest value beta and the largest beta + alpha is scaled to u = (w - beta) / alpha, which is between 0
and 1; u is put on the nearest of even levels, or of points; and alpha u + beta is what the network computes with. The
gradient at that value passes to w as it is; that of a point is the sum, over all weights that are nearest to it, of
their gradients times the alpha of their bucket.

Their buckets have 256 values and go over the ends of rows; the last one has what is left. Here all buckets of a site
are alike, as the file has them: of the largest size up to the one wanted that divides the number of weights. A bucket
whose values differ by hardly anything keeps about the smallest of them. A file holds whole numbers for the levels of a
bucket, so points are rounded to 1/4095 of what lies between the first and the last of them. Where a mask holds zeros,
levels reach to 0.0 and are shifted by half a step at most, so that it is one of them.
"""

import math
from functools import cache

import torch
from torch import Tensor

from gossamer.model.constraint import Grid, along
from gossamer.model.latent import Bucketed, Points
from gossamer.model.nearest import nearest_center
from gossamer.model.straight import straight_through

_FINE = 12  # bits of a point
_ALIKE = 1 / 256  # of the largest size: what values of a bucket must differ by to have levels of their own
_TINY = 1e-30


@cache
def bucket_count(values: int, size: int | None) -> int:
    """Return how many buckets a site has.

    Args:
        values: how many weights it has.
        size: values of a bucket that are wanted; None for one bucket. Where no size from half of that up to it divides
            the number of weights, the divisor is taken that is nearest by ratio.
    """
    if size is None or values <= size:
        return 1
    small = [part for part in range(1, math.isqrt(values) + 1) if values % part == 0]
    divisors = [*small, *(values // part for part in small)]
    most = max(part for part in divisors if part <= size)
    if 2 * most < size:
        most = min(divisors, key=lambda part: (max(part / size, size / part), part))
    return values // most


def scaling(real: Tensor, keep: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Return alpha and beta of each bucket, float32 (count,); alpha is positive.

    Args:
        real: float32, at least one value.
        keep: which values count, bool of that shape; None for all. With it, 0.0 counts too.
        count: how many buckets.
    """
    rows = real.detach().reshape(count, -1)
    low, high = (rows if keep is None else torch.where(keep.reshape(count, -1), rows, 0.0)).aminmax(dim=1)
    if keep is not None:
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    largest = torch.maximum(low.abs(), high.abs())
    alone = torch.where(largest > _TINY, largest, 1.0)
    return torch.where(high - low > torch.clamp_min(_ALIKE * largest, _TINY), high - low, alone), low


def coded(rule: Bucketed | Points, real: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Grid]:
    """Return the codes of ``real``, float32 of its shape, on a grid, and the grid; it has a scale for each bucket.

    Args:
        rule: the levels, or the points as they are now.
        real: the real values, any float dtype.
        keep: which values are not zeroed; None for all.
    """
    exact = real.detach().float()
    if isinstance(rule, Bucketed):
        grid = _grid(rule.bits, *scaling(exact, keep, bucket_count(real.numel(), rule.size)), whole=keep is not None)
        return grid.quantize(exact), grid
    alpha, beta = scaling(exact, None, bucket_count(real.numel(), rule.size))
    points = rule.points.to(exact.device)
    first, width = points.min(), (points.max() - points.min()).clamp_min(_ALIKE)
    grid = _grid(_FINE, alpha * width, beta + alpha * first, whole=False)
    fine = ((points - first) / width * (2**_FINE - 1)).round()
    return fine[nearest(exact, points, alpha, beta)], grid


def bucketed(rule: Bucketed, real: Tensor, keep: Tensor | None, *, draws: bool) -> Tensor:
    """Return the levels of ``real``, float32; its gradient is that of the levels."""
    codes, grid = coded(rule, real, keep)
    if draws:
        zero, scale = (along(part.to(real.device), real.shape, grid.axis) for part in (grid.zero, grid.scale))
        place = real.detach() / scale + zero
        codes = (place.floor() + (torch.rand_like(place) < place - place.floor())).clamp(*grid.codes_range)
    return straight_through(real, grid.dequantize(codes))


def pointed(rule: Points, real: Tensor, points: Tensor) -> Tensor:
    """Return the points that are nearest to ``real``, float32; ``points`` are those of the rule, as they train."""
    codes, grid = coded(Points(points, rule.size), real)
    alpha, beta = scaling(real, None, bucket_count(real.numel(), rule.size))
    found = points.index_select(0, nearest(real, points.detach(), alpha, beta).flatten())
    exact = found.view(len(alpha), -1) * alpha[:, None]
    return straight_through(exact.view(real.shape), grid.dequantize(codes))


def scaled(real: Tensor, size: int | None) -> Tensor:
    """Return ``real``, float32, counted from the smallest value of its bucket to the largest; between 0 and 1."""
    return _scaled(real, *scaling(real, None, bucket_count(real.numel(), size)))


def nearest(real: Tensor, points: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the nearest of ``points`` to each value of ``real`` once it is scaled, int64 of the shape of ``real``."""
    return nearest_center(_scaled(real, alpha, beta), points)


def _scaled(real: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    rows = real.detach().reshape(len(alpha), -1)
    return ((rows - beta[:, None]) / alpha[:, None]).view(real.shape)


def _grid(bits: int, alpha: Tensor, beta: Tensor, *, whole: bool) -> Grid:
    """Return the grid of even levels from beta to beta + alpha; ``whole`` if 0.0 is between them and gets a code."""
    scale = alpha / (2**bits - 1)
    zero = -beta / scale
    if whole:
        zero = zero.round().clamp(0, 2**bits - 1).to(torch.int32)
    if len(scale) == 1:
        return Grid(scale[0], zero[0], bits, signed=False)
    return Grid(scale[None], zero[None], bits, signed=False, axis=0)
