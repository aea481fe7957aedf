"""The step that meets a size: regula falsi on its logarithm, every trial a file that was really written.

At high rates halving the step costs one bit per weight, so the first slope is known; from then on the slope is that of
the two trials around the target, or of the last two (Press et al., Numerical Recipes, section 9.2).
"""

import math
from collections.abc import Callable

FINEST, COARSEST = 2.0**-16, 4.0
"""Steps tried, in standard deviations; at four of them more than nine weights in ten are zero."""

_CLOSE = 0.995  # of the target: near enough to stop
_TRIALS = 12
_GAUSS = 2.05  # bits per weight of a Gaussian at a step of one standard deviation


def search(size: int, weights: int, trial: Callable[[float], int]) -> float | None:
    """Try steps until a file of at most ``size`` bytes, and not much fewer, is found.

    Args:
        size: bytes wanted.
        weights: how many elements the step is for, at least 1.
        trial: writes the file with a step and returns its bytes.

    Returns:
        the best step tried; None if even the coarsest makes a larger file.
    """
    low, high = math.log2(FINEST), math.log2(COARSEST)
    rate = weights / 8  # bytes that an octave of the step is worth
    at = min(max(_GAUSS - size / rate, low), high)
    over: tuple[float, int] | None = None
    under: tuple[float, int] | None = None
    for _ in range(_TRIALS):
        got = trial(2.0**at)
        before = over if got > size else under
        if got > size:
            over = (at, got)
        else:
            under = (at, got)
        if _CLOSE * size <= got <= size or (got > size and at >= high) or (got <= size and at <= low):
            break
        if over is not None and under is not None:
            if under[0] - over[0] < 1e-4:
                break
            at = _between(over, under, size)
        else:
            if before is not None and before[1] != got:
                rate = min(max(abs((got - before[1]) / (at - before[0])), rate / 4), weights / 8)
            at = min(max(at + 1.1 * (got - size) / rate, low), high)
    return None if under is None else 2.0 ** under[0]


def _between(over: tuple[float, int], under: tuple[float, int], size: int) -> float:
    """Return where a line through two trials meets a little less than ``size``, well inside the two."""
    share = (over[1] - (1 + _CLOSE) / 2 * size) / max(over[1] - under[1], 1)
    return over[0] + (under[0] - over[0]) * min(max(share, 0.1), 0.9)
