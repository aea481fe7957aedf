"""Evaluation of a model on a split."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gossamer.errors import TaskError
from gossamer.task.batch import Batch
from gossamer.task.metrics import Metric
from gossamer.task.task import Task


def evaluate(
    model: Any,
    task: Task,
    split: Literal["train", "validation", "test"] = "validation",
    *,
    batch_size: int | None = None,
    samples: int | None = None,
) -> dict[str, float]:
    """Return the loss (mean over samples) and every metric of the task on a split.

    Args:
        model: a module, a subject, or any callable that takes a batch's arguments, such as a target's session. A
            module is evaluated in ``eval`` mode on its own device, and its mode is restored.
        task: data, loss and metrics.
        split: which data; ``test`` is for reported figures only.
        batch_size: samples per batch; the task's own if not given. It does not change the figures.
        samples: use only this many samples.

    Raises:
        TaskError: there is no such split, or the outputs do not fit the targets.
    """
    call = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    if isinstance(call, nn.Module):
        check_fit(call, task)
    with evaluating(call):
        return measure(call, task.loss, task.metrics, task.batches(split, batch_size=batch_size, samples=samples))


def measure(
    model: Callable[..., Any],
    loss: Callable[[Any, Any], Tensor],
    metrics: Mapping[str, Metric],
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Return the loss and the metrics over ``batches``; see :func:`evaluate`."""
    device = device_of(model)
    lost, seen = 0.0, 0
    totals = {name: [0.0, 0.0] for name in metrics}
    for batch in batches:
        args, kwargs, targets = batch.to(device)
        outputs = model(*args, **kwargs)
        size = _size(batch)
        lost, seen = lost + float(loss(outputs, targets)) * size, seen + size
        for name, metric in metrics.items():
            total, count = metric.measure(outputs, targets)
            totals[name][0] += total
            totals[name][1] += count
    figures = {"loss": lost / seen}
    for name, (sum_, number) in totals.items():
        figures[name] = metrics[name].finish(sum_ / number) if number else math.nan
    return figures


def check_fit(model: nn.Module, task: Task) -> None:
    """Call the model on the task's example, so that a mismatch is told as one.

    Raises:
        TaskError: the model cannot take the example; the model's own error is its cause.
    """
    args, kwargs = task.example
    batch = Batch(args, kwargs, None).to(device_of(model))
    with evaluating(model):
        try:
            model(*batch.args, **batch.kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            given = ", ".join(
                [_described(value) for value in args] + [f"{k}={_described(v)}" for k, v in kwargs.items()]
            )
            told = " ".join(str(error).split())
            raise TaskError(
                f"{type(model).__name__} cannot be called with task {task.name!r}'s {given}: {told}"
            ) from error


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


@contextmanager
def evaluating(model: Callable[..., Any]) -> Iterator[None]:
    """Put a module in ``eval`` mode without gradients while the block runs; each submodule's mode is restored."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: Callable[..., Any]) -> torch.device:
    """Return where a module's parameters are; the CPU for anything without parameters."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _size(batch: Batch) -> int:
    """Count the samples of a batch: rows of its first tensor."""
    for value in (*batch.args, *batch.kwargs.values(), batch.targets):
        if isinstance(value, Tensor) and value.ndim > 0:
            return len(value)
    raise TaskError("a batch without a tensor: the number of samples cannot be told")
