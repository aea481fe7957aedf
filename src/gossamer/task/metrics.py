"""Metrics: a total and a count per batch, so that the figure of a split is exact whatever the batch size."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from gossamer.task.batch import IGNORE
from gossamer.task.check import class_scores, same_shape


def _as_it_is(mean: float) -> float:
    return mean


@dataclass(frozen=True)
class Metric:
    """A figure of merit of a model on a split.

    Args:
        measure: from a batch's outputs and targets to a total and the count it is over, such as (right, samples).
        higher_is_better: the direction.
        finish: from the mean over the split (sum of totals over sum of counts) to the figure.
        unit: shown after the figure; ``share`` is shown as a percentage.
    """

    measure: Callable[[Any, Any], tuple[float, int]]
    higher_is_better: bool
    finish: Callable[[float], float] = _as_it_is
    unit: str = ""

    def better(self, one: float, other: float) -> bool:
        """Return whether ``one`` is strictly better than ``other``; a NaN is never better."""
        return one > other if self.higher_is_better else one < other


def _correct(outputs: Any, targets: Any) -> tuple[float, int]:
    scores, classes = class_scores(outputs, targets)
    counted = classes != IGNORE
    return float(((scores.argmax(dim=1) == classes) & counted).sum()), int(counted.sum())


def _surprise(outputs: Any, targets: Any) -> tuple[float, int]:
    """Sum of -ln p(target), the scores being logits or log-probabilities (log_softmax leaves those as they are)."""
    scores, classes = class_scores(outputs, targets)
    total: Tensor = F.cross_entropy(scores.float(), classes, ignore_index=IGNORE, reduction="sum")
    return float(total), int((classes != IGNORE).sum())


def _squares(outputs: Any, targets: Any) -> tuple[float, int]:
    given, wanted = same_shape(outputs, targets)
    return float((given - wanted).double().square().sum()), wanted.numel()


def _bits(nats: float) -> float:
    return nats / math.log(2)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


ACCURACY = Metric(_correct, higher_is_better=True, unit="share")
"""Share of targets that are the class of the highest score, 0 to 1."""
MSE = Metric(_squares, higher_is_better=False)
"""Mean squared error per number."""
BITS = Metric(_surprise, higher_is_better=False, finish=_bits, unit="bit")
"""Bits per character (or other symbol): mean of -log2 p(target)."""
PERPLEXITY = Metric(_surprise, higher_is_better=False, finish=_exp)
"""exp of the mean of -ln p(target)."""
