"""The nearest of a few centers to each of many values."""

import numpy as np
import torch
from torch import Tensor

_MANY = 1 << 18
_CHUNK = 1 << 16


def nearest_center(values: Tensor, centers: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return the index of the center nearest to each value, in the middle the lower.

    Args:
        values: of any shape.
        centers: in any order.
        dtype: of the indices: uint8, int16, int32 or int64; must hold them.
    """
    ordered, order = centers.double().sort()
    middles = (ordered[1:] + ordered[:-1]) / 2
    if values.numel() > _MANY and values.device.type == "cpu" and values.dtype.itemsize <= 4:
        return _from_table(values, middles, order, dtype)
    return order[torch.bucketize(values.double(), middles)].to(dtype)


def _from_table(values: Tensor, middles: Tensor, order: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the same by a table over the upper halves of float32 numbers.

    An upper half tells the place of a value among ``middles`` up to the one that its values lie about; a comparison
    tells the rest. Values whose upper half has several middles, few as a rule, are looked for. Parts are small enough
    for the processor's cache, so threads of torch would wait for each other more than they work: numpy has none.
    """
    upper = torch.arange(1 << 16, dtype=torch.int32) << 16
    ends = torch.bucketize(torch.stack([upper, upper | 0xFFFF]).view(torch.float32).double(), middles)
    low, high = ends.amin(0), ends.amax(0)
    crowded = (high > low + 1) & upper.view(torch.float32).isfinite()
    cut = torch.cat([_float_below(middles), torch.full((1,), torch.inf)])[low]
    place = torch.where(crowded, -2, low).int().numpy()
    some_crowded, in_order = bool(crowded.any()), bool((order.diff() > 0).all())
    flat, above, names = values.detach().reshape(-1), cut.numpy(), order.numpy()
    found = torch.empty(flat.shape, dtype=dtype)
    for start in range(0, flat.numel(), _CHUNK):
        single = flat[start : start + _CHUNK].float().numpy()
        half = (single.view(np.uint32) >> 16).astype(np.int64)
        out = place.take(half) + (single > above.take(half))
        if some_crowded:
            unsure = np.flatnonzero(out < 0)
            out[unsure] = np.searchsorted(middles.numpy(), single[unsure].astype(np.float64))
        found[start : start + _CHUNK] = torch.from_numpy(out if in_order else names[out])
    return found.view(values.shape)


def _float_below(values: Tensor) -> Tensor:
    """Return the largest float32 that is not above each float64: a float32 is above the one if above the other."""
    single = values.float()
    return torch.where(single.double() > values, single.nextafter(torch.tensor(-torch.inf)), single)
