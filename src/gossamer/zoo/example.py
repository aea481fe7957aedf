"""Example inputs: one sample of a shape, the same at every call; torch's random state is left as it is."""

from collections.abc import Callable

import torch
from torch import Tensor

Example = Callable[[], tuple[Tensor, ...]]


def real(*shape: int) -> Example:
    """Return a maker of one tensor (1, *shape) of normal numbers."""

    def make() -> tuple[Tensor, ...]:
        return (torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)),)

    return make


def tokens(count: int, *steps: int) -> Example:
    """Return a maker of one int64 tensor (1, steps) for each of ``steps``, with tokens below ``count``."""

    def make() -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randint(count, (1, length), generator=generator) for length in steps)

    return make


def frames(steps: int, coefficients: int) -> Example:
    """Return a maker of one sequence (1, steps, coefficients) and its length (1,)."""

    def make() -> tuple[Tensor, ...]:
        return (*real(steps, coefficients)(), torch.tensor([steps]))

    return make
