"""How a graph is called as its model was: which input each argument is, and what the outputs were put together as.

What the names and the order of the graph's inputs do not say anyway is kept as JSON in the graph's metadata.
"""

from collections import namedtuple
from collections.abc import Mapping
from inspect import BoundArguments, Parameter, Signature
from typing import Any

import msgspec
import onnx
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gossamer.codings.nodes import Array
from gossamer.errors import TargetError

KEY = "gossamer.call"
_KINDS = (
    Parameter.POSITIONAL_ONLY,
    Parameter.POSITIONAL_OR_KEYWORD,
    Parameter.VAR_POSITIONAL,
    Parameter.KEYWORD_ONLY,
    Parameter.VAR_KEYWORD,
)


class _Call(msgspec.Struct, frozen=True, array_like=True):
    """Parameters by name and kind, the path of each input of the graph in the arguments, the tree of the outputs."""

    parameters: tuple[tuple[str, int], ...]
    inputs: tuple[str, ...]
    outputs: Any


class Fields(dict[str, Any]):
    """Outputs by name, as items and as attributes."""

    def __getattr__(self, name: str) -> Any:
        """Return the output of that name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def note_call(proto: onnx.ModelProto, bound: BoundArguments, outputs: Any) -> None:
    """Keep in ``proto`` how the model was called.

    Args:
        proto: the graph; changed.
        bound: the example inputs.
        outputs: what the model returned for them.
    """
    paths = tuple(_tensors(bound))
    names = tuple(value.name for value in proto.graph.input)
    if len(paths) != len(names):
        raise TargetError(f"the exporter made {len(names)} inputs of {len(paths)} tensors: {', '.join(names)}")
    tree, count = _described(outputs, 0)
    if count != len(proto.graph.output):
        tree = None
    plain = all(isinstance(value, Tensor) for value in bound.arguments.values())
    if plain and names == tuple(bound.arguments) and tree in (None, 0):
        return
    parameters = tuple((name, _KINDS.index(each.kind)) for name, each in bound.signature.parameters.items())
    text = msgspec.json.encode(_Call(parameters, paths, tree)).decode()
    proto.metadata_props.append(onnx.StringStringEntryProto(key=KEY, value=text))


def arrays_of(
    proto: onnx.ModelProto, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """Return torch inputs as arrays under the names of the graph's inputs; half precision as float32.

    Args:
        proto: the graph.
        args: inputs as the model takes them.
        kwargs: keyword inputs.

    Raises:
        TargetError: a tensor is no input of the graph, or an input is missing.
    """
    names = [value.name for value in proto.graph.input]
    call = _call(proto)
    found = _in_order(names, args, kwargs or {}) if call is None else _by_path(call, names, args, kwargs or {})
    lacking = [name for name in names if name not in found]
    if lacking:
        raise TargetError(f"the graph's inputs are {', '.join(names)}; {', '.join(lacking)} is not given")
    return {name: _array(found[name]) for name in names}


def outputs_of(proto: onnx.ModelProto, arrays: Mapping[str, Array]) -> Any:
    """Return a graph's outputs as tensors, put together as the model's were; without a note of that, flat."""
    tensors = [torch.from_numpy(array) for array in arrays.values()]
    call = _call(proto)
    if call is not None and call.outputs is not None:
        try:
            return _rebuilt(call.outputs, tensors)
        except (TypeError, ValueError, LookupError) as error:
            raise TargetError(f"the graph's metadata {KEY!r} does not fit its outputs: {error}") from None
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _call(proto: onnx.ModelProto) -> _Call | None:
    text = next((entry.value for entry in proto.metadata_props if entry.key == KEY), None)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=_Call)
    except msgspec.MsgspecError as error:
        raise TargetError(f"the graph's metadata {KEY!r} is malformed: {error}") from None


def _by_path(call: _Call, names: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        parameters = [Parameter(name, _KINDS[kind]) for name, kind in call.parameters]
        bound = Signature(parameters).bind_partial(*args, **kwargs)
    except (TypeError, ValueError, LookupError) as error:
        raise TargetError(f"the inputs do not fit the graph: {error}") from None
    known = dict(zip(call.inputs, names, strict=False))
    given = _tensors(bound)
    _refuse([path for path in given if path not in known], names)
    return {known[path]: value for path, value in given.items()}


def _in_order(names: list[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return positional inputs under the first names, and keyword inputs under their own."""
    flat = _leaves(args)
    if len(flat) > len(names):
        raise TargetError(f"the graph's inputs are {', '.join(names)}; got {len(flat)} tensors")
    found = dict(zip(names, flat, strict=False))
    named = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    _refuse([name for name in named if name not in names or name in found], names)
    return found | named


def _refuse(unknown: list[str], names: list[str]) -> None:
    if unknown:
        raise TargetError(
            f"the graph's inputs are {', '.join(names)}; there is no place for {', '.join(unknown)}",
            hint="call it with what the example of its export had",
        )


def _leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _tensors(bound: BoundArguments) -> dict[str, Tensor]:
    """Return the tensors among the arguments by their paths."""
    leaves, _ = pytree.tree_flatten_with_path(dict(bound.arguments))
    return {pytree.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def _described(value: Any, count: int) -> tuple[Any, int]:
    """Return ``value`` as plain data, a tensor as its number among the tensors; and the number of the next one."""
    if isinstance(value, Tensor):
        return count, count + 1
    if isinstance(value, Mapping):
        kind, parts = ("dict" if type(value) is dict else "fields"), list(value.values())
        head: list[Any] = [kind, list(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts, head = list(value), [type(value).__name__, list(value._fields)]
    elif isinstance(value, list | tuple):
        parts, head = list(value), ["list" if isinstance(value, list) else "tuple", None]
    else:
        return ["value", None, value if isinstance(value, None | bool | int | float | str) else repr(value)], count
    for part in parts:
        described, count = _described(part, count)
        head.append(described)
    return head, count


def _rebuilt(tree: Any, tensors: list[Tensor]) -> Any:
    """Return the outputs that :func:`_described` wrote down; a named tuple is one of the same name and fields."""
    if isinstance(tree, int):
        return tensors[tree]
    kind, names, *parts = tree
    if kind == "value":
        return parts[0]
    values = [_rebuilt(part, tensors) for part in parts]
    match kind:
        case "list" | "tuple":
            return values if kind == "list" else tuple(values)
        case "dict" | "fields":
            return (dict if kind == "dict" else Fields)(zip(names, values, strict=True))
        case _:
            return namedtuple(kind, names)(*values)  # its class is in no file


def _array(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain).numpy()
