"""Bell curves in whole numbers: how much of a distribution lies beyond a boundary.

Two curves with a given mean absolute deviation: the logistic one, whose tail is exponential, and the normal one in
the logistic form of Page (1977, "Approximations to the cumulative normal function and its inverse for use on a pocket
calculator"): Φ(z) = 1 / (1 + exp(-1.5976 z - 0.07056 z³)). The table is built of whole numbers, so that every machine
computes the same.
"""

from typing import Literal, assert_never, get_args

import numpy as np

from gossamer.coders.stream import Array

Shape = Literal["normal", "between", "logistic"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
TAIL_BITS = 40
_UNIT = 1024  # table entries per natural unit of log odds
_REACH = 24 * _UNIT
_STEP = (1 << 60) + ((1 << 60) // _UNIT) + ((1 << 60) // (2 * _UNIT * _UNIT)) + ((1 << 60) // (6 * _UNIT**3))
_LOGISTIC = 1420  # 2 ln 2 in 1/1024
_NORMAL, _CUBIC = 1305, 37  # 1.5976 z and 0.07056 z³ with z = √(2/π) times the distance in mean deviations, in 1/1024


def _tail_table() -> Array:
    """Return 2^40 / (1 + exp(k / 1024)) for k = -24576 .. 24576."""
    upper = []
    power = 1 << 60
    for _ in range(_REACH + 1):
        upper.append((1 << (TAIL_BITS + 60)) // ((1 << 60) + power))
        power = power * _STEP >> 60
    lower = [(1 << TAIL_BITS) - value for value in reversed(upper[1:])]
    return np.array(lower + upper, np.int64)


_TAIL = _tail_table()


def tail(shape: Shape, distance: Array, deviation: Array) -> Array:
    """Return the share, in 2^-40, of a curve that lies farther than ``distance`` above its mean."""
    match shape:
        case "logistic":
            at = distance * _LOGISTIC // deviation
        case "normal":
            at = _normal(distance * _UNIT // deviation)
        case "between":
            at = (distance * _LOGISTIC // deviation + _normal(distance * _UNIT // deviation)) >> 1
        case _:
            assert_never(shape)
    return np.asarray(_TAIL[np.minimum(np.maximum(at, -_REACH), _REACH) + _REACH])


def _normal(distance: Array) -> Array:
    """Return log odds, in 1/1024, at a distance in 1/1024 of a deviation."""
    near = np.minimum(np.maximum(distance, -_REACH), _REACH)
    return np.asarray((near * _NORMAL >> 10) + ((near * near >> 10) * near * _CUBIC >> 20))
