"""Which axes of the inputs stay free in an exported graph."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.errors import TargetError

Axes = Literal["auto", "none"]


def free_axes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], axes: Axes) -> dict[str, Any] | None:
    """Return the ``dynamic_shapes`` of an export: free where the model leaves an axis free.

    The first axis of every input is offered (the batch), and the second of sequences: inputs of whole numbers and
    inputs of at most three dimensions. The model keeps an offered axis fixed if it depends on its length.

    Raises:
        TargetError: the inputs do not fit the model's signature.
    """
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise TargetError(
            f"{type(model).__name__}: the example inputs do not fit forward: {error}", hint="give args and kwargs of it"
        ) from None
    if axes == "none":
        return None
    return {name: pytree.tree_map(_offer, value) for name, value in bound.arguments.items()}


def _offer(value: Any) -> dict[int, Any] | None:
    if not isinstance(value, Tensor) or not value.ndim:
        return None
    auto = torch.export.Dim.AUTO
    sequence = value.ndim <= 3 or not value.is_floating_point()
    return dict.fromkeys(range(min(value.ndim, 2 if sequence else 1)), auto)


def two_rows(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the example with a batch of two where it has a batch of one, if the model accepts it.

    An axis of length one is taken as fixed by ``torch.export``; doubling it leaves it free.
    """
    for axis in (0, 1):
        doubled = pytree.tree_map(lambda value, axis=axis: _double(value, axis), (args, dict(kwargs)))
        longer = any(
            isinstance(new, Tensor) and new.shape != old.shape
            for old, new in zip(pytree.tree_leaves((args, kwargs)), pytree.tree_leaves(doubled), strict=True)
        )
        if longer and _runs(model, *doubled):
            args, kwargs = doubled
    return args, dict(kwargs)


def _double(value: Any, axis: int) -> Any:
    if isinstance(value, Tensor) and value.ndim > axis and value.shape[axis] == 1:
        return torch.cat([value, value], axis)
    return value


def _runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True
