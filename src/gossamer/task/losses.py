"""The losses of the three built-in kinds of task; a padded position (:data:`~gossamer.task.IGNORE`) never counts."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from gossamer.task.batch import IGNORE
from gossamer.task.check import class_scores, same_shape


def cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Return the mean of -log softmax(outputs)[target] in nats.

    Args:
        outputs: unnormalised scores (logits), ``(..., classes)``.
        targets: class indices, ``(...)``.

    Raises:
        TaskError: shapes or class indices do not fit.
    """
    scores, classes = class_scores(outputs, targets)
    return F.cross_entropy(scores, classes, ignore_index=IGNORE)


def nll(outputs: Any, targets: Any) -> Tensor:
    """Return the mean negative log-likelihood of log-probabilities (the output of ``log_softmax``), in nats.

    Args:
        outputs: log-probabilities, ``(..., classes)``.
        targets: class indices, ``(...)``.

    Raises:
        TaskError: shapes or class indices do not fit.
    """
    scores, classes = class_scores(outputs, targets)
    return F.nll_loss(scores, classes, ignore_index=IGNORE)


def squared_error(outputs: Any, targets: Any) -> Tensor:
    """Return the mean squared error of outputs and targets of one shape.

    Raises:
        TaskError: the shapes differ.
    """
    given, wanted = same_shape(outputs, targets)
    return F.mse_loss(given, wanted)
