"""Looking at the values of a large tensor a part at a time: masks and copies of a whole one take too much memory."""

import torch
from torch import Tensor

_CHUNK = 1 << 20


def in_parts(values: Tensor) -> tuple[Tensor, ...]:
    """Return ``values``, flat, in parts of a million; views where these are contiguous."""
    flat = values.detach().reshape(-1)
    return tuple(flat[start : start + _CHUNK] for start in range(0, flat.numel(), _CHUNK))


def all_finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite; torch's own test takes more memory than the values."""
    return all(bool(torch.isfinite(part).all()) for part in in_parts(values))
