"""The grid of a weight: one scale, one per output channel, or one per group of values in a row.

Scales per channel are those of Krishnamoorthi 2018 (arXiv 1806.08342), those per group of Shen et al., "Q-BERT", AAAI
2020 (arXiv 1909.05840). A group is a run of consecutive weights of a row, so of inputs that are summed up one after the
other. Its scale is kept to the 8 significant digits of a bfloat16, which halves what scales cost in the file.
"""

from functools import partial

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from gossamer.errors import ModelError
from gossamer.methods.quantize.ranges import Range, choose_levels
from gossamer.methods.quantize.uniform import Array, Levels, affine, coarse, symmetric
from gossamer.model import Grid, Site, Subject, live_weight

_DIGITS = 8  # of the scale of a group
_TOGETHER = 1 << 22  # values whose levels are searched for at a time


class Form(msgspec.Struct, frozen=True):
    """What the grid of a weight looks like.

    Attributes:
        bits: of a code.
        how: how the range is chosen.
        signed: whether codes are signed and zero is the code 0; otherwise unsigned, with a zero of their own.
        powers: whether scales are powers of two.
    """

    bits: int
    how: Range
    signed: bool = True
    powers: bool = False

    def levels(self, rows: Array) -> Levels:
        """Return levels for each row of ``rows`` (rows, values)."""
        make = partial(symmetric if self.signed else affine, bits=self.bits, powers=self.powers)
        each = max(_TOGETHER // max(rows.shape[1], 1), 1)
        parts = [choose_levels(rows[i : i + each], self.how, make) for i in range(0, len(rows), each)]
        scale, zero = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scale", "zero"))
        return Levels(scale, zero, parts[0].lowest, parts[0].highest)


def weight_grid(subject: Subject, site: Site, form: Form, axis: int | None, group: int = 0) -> Grid:
    """Return the grid of the weight of ``site``, which has at least one value.

    Args:
        subject: the model.
        site: the weight.
        form: bits, range and kind of codes.
        axis: the dimension that has a scale per index, or None for one scale.
        group: values of a row that have one scale, a divisor of its length; 0 for all of them.

    Raises:
        ModelError: a weight is not finite.
    """
    weight = live_weight(subject, site.name).detach().cpu().float()
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"{site.name}: a weight is not finite, so it cannot be put on a grid")
    if group:
        levels = form.levels(_array(weight.reshape(-1, group)))
        return grid_of(
            levels if form.powers else coarse(levels, _DIGITS), form.bits, (len(weight), -1), signed=form.signed
        )
    rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
    return grid_of(form.levels(_array(rows)), form.bits, () if axis is None else (-1,), axis, signed=form.signed)


def group_size(site: Site, most: int) -> int:
    """Return the largest divisor of the length of a row of ``site`` that is at most ``most``; 0 if none is near it."""
    row = int(np.prod(site.shape[1:]))
    if not most or row <= most:
        return 0
    size = next(size for size in range(most, 0, -1) if row % size == 0)
    return size if 2 * size > most else 0


def grid_of(
    levels: Levels,
    bits: int,
    shape: tuple[int, ...] = (),
    axis: int | None = None,
    *,
    signed: bool,
) -> Grid:
    """Return ``levels`` as a grid whose scales have ``shape``; two dimensions are rows and groups."""

    def tensor(values: NDArray[np.float32] | NDArray[np.int32]) -> torch.Tensor:
        return torch.from_numpy(values.reshape(shape))

    return Grid(tensor(levels.scale), tensor(levels.zero), bits, signed, 0 if len(shape) == 2 else axis)


def _array(rows: torch.Tensor) -> Array:
    return np.ascontiguousarray(rows.numpy(), np.float32)
