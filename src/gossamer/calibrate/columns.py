"""Inputs of a convolution as rows of a matrix (im2col), so that the convolution is a plain matrix product.

The lowering is that of Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
Processing" (2006), for any number of spatial dimensions, with groups, stride, padding and dilation. A transposed
convolution is read as a convolution with stride 1 over its input with zeros put in (Dumoulin and Visin, arXiv
1603.07285, section 4).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_ONCE = 1 << 24
"""Numbers in one block of rows: the input is cut along its batch so that no block is larger, unless one item is."""


@dataclass(frozen=True)
class Geometry:
    """Where a convolution's kernel stands: kernel size, stride, padding and dilation per spatial dimension.

    ``transposed`` with ``output_padding`` means what it means for ``torch.nn.ConvTranspose2d``.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    output_padding: tuple[int, ...]


def _spread(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Put ``stride - 1`` zeros between neighbours of each spatial dimension of ``x`` (N, C, ...)."""
    if all(step == 1 for step in stride):
        return x
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
    out = x.new_zeros(*x.shape[:2], *sizes)
    out[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = x
    return out


def _pad(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Pad (or, where negative, crop) each spatial dimension of ``x`` with zeros."""
    pairs = [number for pair in reversed(list(zip(before, after, strict=True))) for number in pair]
    return F.pad(x, pairs) if any(pairs) else x


def _windows(x: Tensor, geometry: Geometry) -> Tensor:
    """Return a view (N, C, outputs..., kernel...) of the windows of ``x`` (N, C, ...)."""
    dims = len(geometry.kernel)
    if geometry.transposed:
        x = _spread(x, geometry.stride)
        reach = [step * (size - 1) for size, step in zip(geometry.kernel, geometry.dilation, strict=True)]
        before = [far - pad for far, pad in zip(reach, geometry.padding, strict=True)]
        after = [left + extra for left, extra in zip(before, geometry.output_padding, strict=True)]
        x = _pad(x, before, after)
        stride: tuple[int, ...] = (1,) * dims
    else:
        x = _pad(x, geometry.padding, geometry.padding)
        stride = geometry.stride
    for axis, (size, step, dilation) in enumerate(zip(geometry.kernel, stride, geometry.dilation, strict=True)):
        x = x.unfold(2 + axis, dilation * (size - 1) + 1, step)[..., ::dilation]
    if geometry.transposed:
        x = x.flip(tuple(range(-dims, 0)))
    return x


def convolution_rows(x: Tensor, geometry: Geometry) -> Iterator[list[Tensor]]:
    """Yield, block by block along the batch, one matrix per group whose rows are the kernel's inputs.

    Args:
        x: input of the convolution, (N, C, spatial...).
        geometry: where the kernel stands.

    Yields:
        ``groups`` matrices of shape (items * output positions, C / groups * kernel size), columns in the order of
        ``weight.flatten(1)`` for a convolution and of ``weight.transpose(0, 1).flatten(1)`` of the group's part for
        a transposed one.
    """
    dims = len(geometry.kernel)
    channels = x.shape[1] // geometry.groups
    one = _windows(x[:1], geometry).numel()
    items = max(1, ROWS_AT_ONCE // max(one, 1))
    for part in torch.split(x, items):
        windows = _windows(part, geometry)
        order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
        windows = windows.permute(order)
        group_axis = 1 + dims
        yield [
            group.reshape(-1, channels * _product(geometry.kernel))
            for group in torch.split(windows, channels, dim=group_axis)
        ]


def _product(sizes: Sequence[int]) -> int:
    out = 1
    for size in sizes:
        out *= size
    return out


def one_hot_counts(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return how often each of ``vocabulary`` tokens occurs: the diagonal of the one-hot rows' second moment."""
    return torch.bincount(tokens.reshape(-1), minlength=vocabulary).to(torch.float32)
