"""Evaluation of a model on a split."""

import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gossamer.errors import TaskError
from gossamer.task.batch import IGNORE, Batch
from gossamer.task.metrics import Metric
from gossamer.task.task import Task

_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    NameError,
    ImportError,
)
"""What code of a caller's own raises when it is wrong, or given what it cannot take."""


def evaluate(
    model: Any,
    task: Task,
    split: Literal["train", "validation", "test"] = "validation",
    *,
    batch_size: int | None = None,
    samples: int | None = None,
) -> dict[str, float]:
    """Return the loss and every metric of the task on a split.

    The loss is a mean over what the targets count: their numbers, padded positions left out; samples where the targets
    are no tensor. NaN if they count nothing.

    Args:
        model: a module, a subject, or any callable that takes a batch's arguments, such as a target's session. A
            module is evaluated in ``eval`` mode on its own device, and its mode is restored.
        task: data, loss and metrics.
        split: which data; ``test`` is for reported figures only.
        batch_size: samples per batch; the task's own if not given. It does not change the figures, if the loss is
            such a mean.
        samples: use only this many samples.

    Raises:
        TaskError: there is no such split, the outputs do not fit the targets, or the loss or a metric is of the wrong
            form.
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
        with told(type(model).__name__, "on a batch") if isinstance(model, nn.Module) else nullcontext():
            outputs = model(*args, **kwargs)
        size = _size(batch)
        mean = float(mean_loss(loss, outputs, targets))
        if size:
            lost, seen = lost + mean * size, seen + size
        for name, metric in metrics.items():
            with told(f"the task's metric {name}"):
                found = metric.measure(outputs, targets)
            total, count = _pair(name, found)
            totals[name][0] += total
            totals[name][1] += count
    figures = {"loss": lost / seen if seen else math.nan}
    for name, (sum_, number) in totals.items():
        figures[name] = metrics[name].finish(sum_ / number) if number else math.nan
    return figures


def mean_loss(loss: Callable[[Any, Any], Tensor], outputs: Any, targets: Any) -> Tensor:
    """Return the loss of a batch.

    Raises:
        TaskError: it fails, or is not one number in a tensor.
    """
    found: Any
    with told("the task's loss"):
        found = loss(outputs, targets)
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise TaskError(
            f"the task's loss: wanted a tensor with one number, got {_described(found)}",
            hint="a loss returns the mean over the batch, such as torch.nn.functional.cross_entropy does",
        )
    return found.reshape(())


@contextmanager
def told(what: str, when: str = "") -> Iterator[None]:
    """Run a caller's code, and tell what it raises as an error that names it.

    Raises:
        TaskError: the code failed; its own error is the cause.
    """
    try:
        yield
    except _FAILURES as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskError(f"{what} failed{when and ' '}{when}, at {at.filename}:{at.lineno}: {text}") from error


def _pair(name: str, found: Any) -> tuple[float, int]:
    try:
        total, count = found
        return float(total), int(count)
    except (TypeError, ValueError, RuntimeError):
        raise TaskError(
            f"the task's metric {name}: wanted a total and the count it is over, got {_described(found)}",
            hint="such as (number of right answers, number of samples)",
        ) from None


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
    """Count what the loss of a batch is the mean of: numbers of the targets, or else rows of its first tensor."""
    targets = batch.targets
    if isinstance(targets, Tensor) and targets.ndim > 0:
        return targets.numel() if targets.is_floating_point() else int((targets != IGNORE).sum())
    for value in (*batch.args, *batch.kwargs.values()):
        if isinstance(value, Tensor) and value.ndim > 0:
            return len(value)
    raise TaskError("a batch without a tensor: the number of samples cannot be told")
