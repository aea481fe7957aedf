"""Learning rate as a function of the step alone, so that a resumed run needs no scheduler state.

``one_cycle`` is Smith & Topin, "Super-Convergence", 2017 (arXiv 1708.07120), with cosine ramps: from lr/25 up to lr
over the first 30 % of training, then down to lr/250,000. ``cosine`` is one half-period of Loshchilov & Hutter,
"SGDR", 2017 (arXiv 1608.03983), without restarts.
"""

import math
from typing import Literal, assert_never

RISE = 0.3
START = 1 / 25
END = START / 10_000


def rate(schedule: Literal["one_cycle", "cosine", "constant"], step: int, total: int, highest: float) -> float:
    """Return the learning rate of optimizer step ``step`` (0 is the first) of ``total``."""
    match schedule:
        case "constant":
            return highest
        case "cosine":
            return _between(highest, 0.0, step / total)
        case "one_cycle":
            top = RISE * total - 1
            if step < top:
                return _between(highest * START, highest, step / top)
            return _between(highest, highest * END, (step - top) / max(total - 1 - top, 1))
        case _:
            assert_never(schedule)


def _between(first: float, last: float, share: float) -> float:
    """Go from ``first`` to ``last`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
