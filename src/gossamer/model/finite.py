"""Whether all values of a tensor are finite, in little memory."""

import torch
from torch import Tensor

_CHUNK = 1 << 20


def all_finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite; torch's own test takes more memory than the values."""
    return all(bool(torch.isfinite(part).all()) for part in torch.split(values.detach().reshape(-1), _CHUNK))
