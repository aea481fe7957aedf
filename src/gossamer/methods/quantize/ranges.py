"""The choice of a range: all values, percentiles, least squared error, least divergence, or a moving average."""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import numpy as np

from gossamer.methods.quantize.kl import least_divergence
from gossamer.methods.quantize.minmax import minmax
from gossamer.methods.quantize.mse import least_squares
from gossamer.methods.quantize.percentile import percentile
from gossamer.methods.quantize.uniform import Array, Levels

Percent = Annotated[float, msgspec.Meta(gt=50, le=100)]
Range = Literal["minmax", "mse"] | Percent
"""``minmax``, ``mse``, or a percentile such as 99.99."""

InputRange = Literal["minmax", "mse", "kl", "average"] | Percent
"""Of inputs also ``kl``, for which a channel's weights are too few, and ``average``, of the ends of each batch."""


def choose_levels(
    rows: Array,
    how: Range,
    levels: Callable[[Array, Array], Levels],
    ends: tuple[float, float] | None = None,
) -> Levels:
    """Return the levels of each row of ``rows`` (rows, values).

    Args:
        rows: the values, or a sample of them.
        how: how the range is chosen.
        levels: the levels that two ends give.
        ends: the true smallest and largest value where ``rows`` is a sample.
    """
    if isinstance(how, float | int):
        return levels(*percentile(rows, float(how)))
    low, high = minmax(rows)
    if ends is not None:
        low, high = np.minimum(low, np.float32(ends[0])), np.maximum(high, np.float32(ends[1]))
    return levels(*least_squares(rows, low, high, levels)) if how == "mse" else levels(low, high)


def choose_input_levels(
    sample: Array,
    how: InputRange,
    levels: Callable[[Array, Array], Levels],
    ends: tuple[float, float],
) -> Levels:
    """Return the levels of the inputs of a layer, one row of them.

    Args:
        sample: some of the inputs, 1-d.
        how: how the range is chosen.
        levels: the levels that two ends give.
        ends: the smallest and the largest input; for ``average``, the moving averages of those of each batch.
    """
    if how == "average":
        return levels(*(np.array([end], np.float32) for end in ends))
    if how != "kl":
        return choose_levels(sample.reshape(1, -1), how, levels, ends)
    low, high = (np.array([end], np.float32) for end in ends)
    full = levels(low, high)
    reach = np.float32(least_divergence(np.abs(sample), full.highest - int(full.zero[0]) + 1))
    return levels(np.maximum(low, -reach), np.minimum(high, reach))
