"""From a plain module to a small ONNX graph whose initializers are the entries of its ``state_dict``.

The graph comes from ``torch.onnx.export`` (the exporter built on ``torch.export``) of a throwaway copy, and is folded
with the weights declared as inputs, so that every weight stays as it is stored while shape arithmetic goes away.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import partial
from inspect import BoundArguments
from io import StringIO
from typing import Any

import onnx
import onnx_ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.errors import ModelError, TargetError
from gossamer.model.copying import copy_module
from gossamer.model.run import run_example
from gossamer.targets.calls import note_call
from gossamer.targets.marks import DOMAIN, MARK
from gossamer.targets.recurrent import padded_sequences, use_native_operators
from gossamer.targets.shapes import Axes, bind, by_name, free_axes, gives, takes, two_rows
from gossamer.targets.tidy import own_outputs, tidy

OPSET = 20
"""What other tools read as well; a graph with constants of 4 bits says 21 (`stored`)."""
_HALVES = (torch.float16, torch.bfloat16)


def export(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    axes: Axes = "auto",
    marks: Iterable[str] = (),
) -> onnx.ModelProto:
    """Return ``model`` in evaluation mode as a float ONNX graph.

    Args:
        model: a plain module; not changed.
        args: example inputs.
        kwargs: example keyword inputs.
        axes: ``auto`` leaves batch and time free where the model does; ``none`` fixes every axis.
        marks: paths of modules whose outputs are marked; such a graph is for :func:`gossamer.targets.fill`.

    Returns:
        a graph whose initializers have the names and values of the ``state_dict``; a tied weight has the name of its
        first owner. Half-precision models come out in float32: the CPU has no kernels for less.

    Raises:
        TargetError: the model cannot be exported, or the inputs do not fit it.
    """
    plain, inputs, named = _throwaway(model, args, dict(kwargs or {}))
    given = bind(plain, inputs, named)
    outputs = _outputs(plain, given)
    bound = two_rows(plain, given) if axes == "auto" else given
    use_native_operators(plain)
    for path in marks:
        plain.get_submodule(path).register_forward_hook(partial(_mark, path))
    proto = _traced(model, plain, bound, axes)
    if not takes(proto, given):  # a doubled axis that did not come out free
        proto = _traced(model, plain, given, axes)
    if not gives(proto, outputs):  # the model made a number of the length of an axis that came out free
        proto = _traced(model, plain, given, "none")
    note_call(proto, given, outputs)
    return proto


def _outputs(plain: nn.Module, bound: BoundArguments) -> Any:
    try:
        return run_example(plain, bound.args, bound.kwargs)
    except ModelError as error:
        raise TargetError(error.message, hint="give args and kwargs as forward takes them") from error


def _mark(path: str, _module: nn.Module, _args: Any, result: Tensor) -> Tensor:
    marked: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{MARK}", (result,), {"module": path}, dtype=result.dtype, shape=result.shape, version=1
    )
    return marked


def _traced(model: nn.Module, plain: nn.Module, bound: BoundArguments, axes: Axes) -> onnx.ModelProto:
    inputs, named = by_name(bound)
    with _quiet(), padded_sequences(), torch.no_grad():
        try:
            program = torch.onnx.export(
                plain,
                inputs,
                kwargs=named,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                verbose=False,
                dynamic_shapes=free_axes(bound) if axes == "auto" else None,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise _explain(model, error) from error
    if program is None:
        raise TargetError(f"{type(model).__name__}: the exporter returned no graph")
    weights = _first_names(plain)
    return tidy(_fold(program.model_proto, set(weights)), weights)


def _throwaway(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Return a copy in evaluation mode on the CPU, in float32 if it was in half precision, and inputs to fit."""
    try:
        plain = copy_module(model).eval().cpu()
    except ModelError as error:
        raise TargetError(error.message) from error
    plain.requires_grad_(requires_grad=False)
    half = any(tensor.dtype in _HALVES for tensor in plain.state_dict().values())
    if half:
        plain.float()

    def fit(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().cpu()
        return value.float() if half and value.dtype in _HALVES else value

    inputs, named = pytree.tree_map(fit, (args, kwargs))
    return plain, inputs, named


def _first_names(model: nn.Module) -> dict[str, str]:
    """Return, for every ``state_dict`` name, the name of the first entry with the same storage."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(tensor), name)
        for name, tensor in (*model.named_parameters(remove_duplicate=False), *_buffers(model))
    }


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    stored = model.state_dict(keep_vars=True)
    return ((name, tensor) for name, tensor in model.named_buffers(remove_duplicate=False) if name in stored)


def _fold(proto: onnx.ModelProto, weights: set[str]) -> onnx.ModelProto:
    """Return ``proto`` with constants folded; ``weights`` are made inputs for the time, so that they stay."""
    graph = proto.graph
    own_outputs(graph)
    kept = {tensor.name: tensor for tensor in graph.initializer if tensor.name in weights}
    others = [tensor for tensor in graph.initializer if tensor.name not in weights]
    inputs = list(graph.input)
    del graph.initializer[:]
    graph.initializer.extend(others)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)) for name, tensor in kept.items()
    )
    model = onnx_ir.from_proto(proto)
    optimizer.optimize(model)
    folded = onnx_ir.to_proto(model)
    del folded.graph.input[:]
    folded.graph.input.extend(inputs)
    folded.graph.initializer.extend(kept.values())
    return folded


def _explain(model: nn.Module, error: Exception) -> TargetError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        if isinstance(cause, TargetError):
            return cause
        cause = cause.__cause__
    if isinstance(cause, TargetError):
        return cause
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return TargetError(
        f"{type(model).__name__} cannot be exported to ONNX: {type(cause).__name__}: {first}",
        hint="torch.export must be able to trace it: no branches on values of tensors, only operators ONNX has",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself (its own deprecations, packages it would also know) from the user."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):  # torch prints graphs it cannot trace
            # torch 2.13 uses its own deprecated tree API inside copyreg
            warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)", category=FutureWarning)
            # torch 2.13 calls its own deprecated size check when it decomposes operators
            warnings.filterwarnings("ignore", message=".*_check_is_size will be removed", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
