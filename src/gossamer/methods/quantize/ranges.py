"""The choice of a range: all values, percentiles, or least squared error."""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import numpy as np

from gossamer.methods.quantize.minmax import minmax
from gossamer.methods.quantize.mse import least_squares
from gossamer.methods.quantize.percentile import percentile
from gossamer.methods.quantize.uniform import Array, Levels

Percent = Annotated[float, msgspec.Meta(gt=50, le=100)]
Range = Literal["minmax", "mse"] | Percent
"""``minmax``, ``mse``, or a percentile such as 99.99."""


def choose_levels(
    rows: Array, how: Range, levels: Callable[[Array, Array], Levels], ends: tuple[float, float] | None = None
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
