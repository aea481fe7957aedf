"""Which axes of the inputs stay free in an exported graph."""

from collections.abc import Iterable, Sequence
from inspect import BoundArguments, Parameter, signature
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.errors import TargetError

Axes = Literal["auto", "none"]


def bind(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundArguments:
    """Return the inputs under the names of the model's parameters of ``forward``.

    Raises:
        TargetError: the inputs do not fit the signature.
    """
    try:
        return signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise TargetError(
            f"{type(model).__name__}: the example inputs do not fit forward: {error}", hint="give args and kwargs of it"
        ) from None


def by_name(bound: BoundArguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, all as keywords if the signature allows: a last dict would be taken for them."""
    kinds = {name: bound.signature.parameters[name].kind for name in bound.arguments}
    if {Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL} & set(kinds.values()):
        return bound.args, bound.kwargs
    more: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = bound.arguments[name]
        more |= value if kind is Parameter.VAR_KEYWORD else {name: value}
    return (), more


def free_axes(bound: BoundArguments) -> dict[str, Any]:
    """Return the ``dynamic_shapes`` of an export: free where the model leaves an axis free.

    The first axis of every input is offered (the batch), and the second of sequences: inputs of whole numbers and
    inputs of at most three dimensions. The model keeps an offered axis fixed if it depends on its length.
    """
    return {name: pytree.tree_map(_offer, value) for name, value in bound.arguments.items()}


def two_rows(model: nn.Module, bound: BoundArguments) -> BoundArguments:
    """Return the example with two where an offered axis has a length of one, if the model accepts it.

    An axis of length one is taken as fixed by ``torch.export``; doubling it leaves it free.
    """
    for axis in (0, 1):
        doubled = BoundArguments(
            bound.signature, pytree.tree_map(lambda value, axis=axis: _double(value, axis), bound.arguments)
        )
        if _shapes(doubled) != _shapes(bound) and _runs(model, doubled):
            bound = doubled
    return bound


def takes(proto: onnx.ModelProto, bound: BoundArguments) -> bool:
    """Return whether the fixed axes of the graph's inputs have the lengths of the inputs."""
    return _fits(proto.graph.input, _shapes(bound))


def gives(proto: onnx.ModelProto, outputs: Any) -> bool:
    """Return whether the fixed axes of the graph's outputs have the lengths of the model's outputs."""
    return _fits(proto.graph.output, [leaf.shape for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)])


def _fits(values: Iterable[onnx.ValueInfoProto], shapes: Sequence[tuple[int, ...]]) -> bool:
    wanted = [
        [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]
        for value in values
    ]
    return len(wanted) == len(shapes) and all(
        len(axes) == len(shape) and all(length in (None, found) for length, found in zip(axes, shape, strict=True))
        for axes, shape in zip(wanted, shapes, strict=True)
    )


def _shapes(bound: BoundArguments) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in pytree.tree_leaves(bound.arguments) if isinstance(leaf, Tensor)]


def _offer(value: Any) -> dict[int, Any] | None:
    if not isinstance(value, Tensor) or not value.ndim:
        return None
    auto = torch.export.Dim.AUTO
    sequence = value.ndim <= 3 or not value.is_floating_point()
    return dict.fromkeys(range(min(value.ndim, 2 if sequence else 1)), auto)


def _double(value: Any, axis: int) -> Any:
    offered = _offer(value)
    return torch.cat([value, value], axis) if offered and axis in offered and value.shape[axis] == 1 else value


def _runs(model: nn.Module, bound: BoundArguments) -> bool:
    try:
        with torch.no_grad():
            model(*bound.args, **bound.kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True
