"""The nearest of a few centers to each of many values."""

import torch
from torch import Tensor

_MANY = 1 << 18
_CHUNK = 1 << 20


def nearest_center(values: Tensor, centers: Tensor) -> Tensor:
    """Return the index of the center nearest to each value, in the middle the lower; ``centers`` in any order."""
    ordered, order = centers.double().sort()
    middles = (ordered[1:] + ordered[:-1]) / 2
    if values.numel() > _MANY and values.device.type == "cpu" and values.dtype.itemsize <= 4:
        return _from_table(values, middles, order)
    return order[torch.bucketize(values.double(), middles)]


def _from_table(values: Tensor, middles: Tensor, order: Tensor) -> Tensor:
    """Return the same by a table over the upper halves of float32 numbers.

    Only values whose upper half does not tell their place, a few in a hundred, are looked for among ``middles``.
    """
    upper = torch.arange(1 << 16, dtype=torch.int32) << 16
    ends = torch.stack([upper, upper | 0xFFFF]).view(torch.float32)
    low, high = torch.bucketize(ends.double(), middles)
    table = torch.where(low == high, low, -1)
    flat = values.detach().reshape(-1)
    found = torch.empty(flat.shape, dtype=torch.int64)
    for start in range(0, flat.numel(), _CHUNK):
        single, out = flat[start : start + _CHUNK].float(), found[start : start + _CHUNK]
        torch.index_select(table, 0, (single.view(torch.int32) >> 16) & 0xFFFF, out=out)
        unsure = (out < 0).nonzero().squeeze(1)
        out[unsure] = torch.bucketize(single[unsure].double(), middles)
        torch.index_select(order, 0, out.clone(), out=out)
    return found.view(values.shape)
