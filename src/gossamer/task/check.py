"""Checks of outputs, targets and data, shared by losses, metrics and splits; each names what is wrong and where."""

from typing import Any

import torch
from torch import Tensor

from gossamer.errors import TaskError
from gossamer.task.batch import IGNORE


def finite(tensor: Tensor, what: str) -> None:
    """Check that every number of a floating ``tensor`` is finite.

    Raises:
        TaskError: naming the first sample (index along dimension 0) with a NaN or an infinity.
    """
    if not tensor.is_floating_point():
        return
    bad = ~torch.isfinite(tensor)
    if bad.any():
        first = int(bad.nonzero()[0][0]) if tensor.ndim else 0
        raise TaskError(f"{what}: {int(bad.sum())} values are NaN or infinite, the first in sample {first}")


def same_length(inputs: int, targets: int, what: str) -> None:
    """Check that a split has at least one sample and one target for each.

    Raises:
        TaskError: empty, or the counts differ.
    """
    if inputs == 0:
        raise TaskError(f"{what}: empty, wanted at least one sample")
    if inputs != targets:
        raise TaskError(f"{what}: {inputs} inputs but {targets} targets")


def class_scores(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Return scores of shape (N, classes) and targets of shape (N,), of any batched (and stepped) shape.

    Raises:
        TaskError: the outputs are not one score per class for each target, or a target is no class index.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        raise TaskError(
            f"classification: wanted tensors, got a {type(outputs).__name__} and targets {type(targets).__name__}",
            hint="a model with several outputs needs a loss and metrics of its own",
        )
    if outputs.ndim != targets.ndim + 1 or outputs.shape[:-1] != targets.shape:
        raise TaskError(
            f"classification: outputs of shape {tuple(outputs.shape)} do not hold one score per class "
            f"for targets of shape {tuple(targets.shape)}; wanted {(*targets.shape, 'classes')}"
        )
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TaskError(f"classification: targets are {targets.dtype}, wanted integer class indices")
    flat, classes = targets.reshape(-1).long(), outputs.shape[-1]
    wrong = ((flat < 0) | (flat >= classes)) & (flat != IGNORE)
    if wrong.any():
        raise TaskError(f"classification: target {int(flat[wrong][0])} is not one of {classes} classes")
    return outputs.reshape(-1, classes), flat


def same_shape(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Return both unchanged if they are tensors of one shape.

    Raises:
        TaskError: they are not.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        raise TaskError(
            f"regression: wanted tensors, got outputs {type(outputs).__name__} and targets {type(targets).__name__}"
        )
    if outputs.shape != targets.shape:
        raise TaskError(
            f"regression: outputs have shape {tuple(outputs.shape)}, targets {tuple(targets.shape)}; wanted the same"
        )
    return outputs, targets
