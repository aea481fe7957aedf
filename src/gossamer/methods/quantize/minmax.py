"""The range of all values: nothing is clamped (Jacob et al., CVPR 2018, arXiv 1712.05877)."""

from gossamer.methods.quantize.uniform import Array


def minmax(rows: Array) -> tuple[Array, Array]:
    """Return the smallest and largest value of each row of ``rows`` (rows, values), which has at least one value."""
    return rows.min(axis=1), rows.max(axis=1)
