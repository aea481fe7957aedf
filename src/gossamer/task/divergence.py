"""How far one model's outputs are from another's, in the units of the task's loss.

The Kullback-Leibler divergence of the distributions over targets that the outputs stand for (`drawing`): what the loss
may be expected to rise by when the first model's beliefs are true. It wants no label and is never below zero, so small
changes are told apart by few samples, where the loss on labels of data that a model was trained on is all noise.
"""

from typing import Any

import torch
from torch import Tensor

from gossamer.task.batch import IGNORE
from gossamer.task.check import class_scores, same_shape
from gossamer.task.losses import cross_entropy, nll, squared_error


def divergence(loss: Any, before: Any, after: Any, targets: Any) -> tuple[float, int]:
    """Return the sum of the divergences of ``after`` from ``before``, and over how many targets it is.

    Args:
        loss: one of :mod:`gossamer.task.losses`; for any other it is the rise of the loss itself, as of one target.
        before: outputs of the first model.
        after: outputs of the second model on the same inputs.
        targets: of the data; under a built-in loss they only tell which positions are padding.

    Raises:
        TaskError: shapes or class indices do not fit.
    """
    if loss is squared_error:
        one, other = same_shape(before, after)
        return float((one - other).double().square().sum()), one.numel()
    if loss not in (cross_entropy, nll):
        return float(loss(after, targets)) - float(loss(before, targets)), 1
    one, classes = class_scores(before, targets)
    other, _ = class_scores(after, targets)
    counted = classes != IGNORE
    return _kl(one[counted], other[counted]), int(counted.sum())


def _kl(before: Tensor, after: Tensor) -> float:
    """Return the sum over rows of KL(softmax(before) || softmax(after)), in nats."""
    first, second = before.double().log_softmax(-1), after.double().log_softmax(-1)
    chances = first.exp()
    return float(torch.where(chances > 0, chances * (first - second), 0.0).sum())
